"""The JSON of a graph against the schema of what reads it, and against the graph itself."""

import json

import jsonschema
import pytest

from interp.circuits.export import neuronpedia
from interp.circuits.graph import attribution_graph
from interp.circuits.influence import prune
from interp.errors import ConfigError
from interp.models.load import load_model
from tests.circuits.test_graph import asked, drawn
from tests.models.test_sweeps import plain

TEXT, WHOLE, NUMBER = {"type": "string"}, {"type": "integer"}, {"type": "number"}
SOME = {"type": ["number", "null"]}
TEXTS = {"type": "array", "items": TEXT}


def exactly(**parts):
    return {"type": "object", "properties": parts, "required": list(parts), "additionalProperties": False}


SCHEMA = exactly(
    metadata=exactly(
        slug=TEXT, scan=TEXT, transcoder_list=TEXTS, prompt_tokens=TEXTS, prompt=TEXT, node_threshold=NUMBER,
        schema_version={"const": 1},
    ),
    qParams=exactly(
        pinnedIds=TEXTS, supernodes={"type": "array", "items": TEXTS}, linkType=TEXT, clickedId=TEXT, sg_pos=TEXT
    ),
    nodes={
        "type": "array",
        "items": exactly(
            node_id={"type": "string", "pattern": r"^(E|\d+)_(-1|\d+)_\d+$"}, feature=WHOLE,
            layer={"type": "string", "pattern": r"^(E|\d+)$"}, ctx_idx=WHOLE,
            feature_type={"enum": ["cross layer transcoder", "mlp reconstruction error", "embedding", "logit"]},
            token_prob=NUMBER, is_target_logit={"type": "boolean"}, run_idx=WHOLE, reverse_ctx_idx=WHOLE,
            jsNodeId=TEXT, clerp=TEXT, influence=SOME, activation=SOME,
        ),
    },
    links={"type": "array", "items": exactly(source=TEXT, target=TEXT, weight=NUMBER)},
)  # fmt: skip


@pytest.fixture(scope="module")
def graph():
    return attribution_graph(load_model(plain("gemma2"), device="cpu"), drawn("topk"), asked(7))


def test_the_json_is_what_its_readers_expect_and_says_what_the_graph_does(graph):
    kept = prune(graph)
    texts = [f"<{i}>" for i in range(7)]
    made = json.loads(json.dumps(neuronpedia(graph, kept, texts, ["a"] * len(graph.logits), slug="one", scan="two")))
    jsonschema.validate(made, SCHEMA)
    nodes = {node["node_id"]: node for node in made["nodes"]}
    assert len(nodes) == len(made["nodes"])  # no two nodes share a name
    assert {end for link in made["links"] for end in (link["source"], link["target"])} <= set(nodes)
    assert len(made["links"]) == int(kept.edges.sum())
    assert sum(node["feature_type"] == "embedding" for node in made["nodes"]) == 7
    assert next(node["is_target_logit"] for node in made["nodes"] if node["feature_type"] == "logit")
    wanted = {}
    for target, source in kept.edges[: len(graph.features), : len(graph.features)].nonzero().tolist():
        ends = [f"{layer}_{feature}_{column}" for layer, column, feature in graph.features[[source, target]].tolist()]
        wanted[tuple(ends)] = float(graph.edges[target, source])
    found = {(link["source"], link["target"]): link["weight"] for link in made["links"]}
    assert wanted.items() <= found.items()


def test_texts_that_do_not_fit_are_refused(graph):
    with pytest.raises(ConfigError, match="do not fit"):
        neuronpedia(graph, prune(graph), ["a"], ["b"], slug="one", scan="two")
