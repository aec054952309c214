"""`interp graph`: the attribution graph of one prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from interp.cli.options import Device, Threads, use_threads
from interp.errors import ConfigError, ModelError


def graph_command(
    transcoder: Annotated[
        str,
        typer.Option(
            metavar="NAME-OR-PATH",
            help="Transcoders: a folder (circuit-tracer, SAELens, GemmaScope), a repository of the hub, or gemma.",
        ),
    ],
    prompt: Annotated[str, typer.Option(help="The prompt; its last token's prediction is explained.")],
    out: Annotated[Path, typer.Option("--out", help="Folder that the graph is written to.")],
    model: Annotated[str | None, typer.Argument(help="A shipped model, a folder or a Hugging Face name.")] = None,
    named_model: Annotated[str | None, typer.Option("--model", metavar="NAME", help="The same, as an option.")] = None,
    name: Annotated[str, typer.Option(help="Name of the files.")] = "graph",
    max_feature_nodes: Annotated[int, typer.Option(min=1, help="Features kept; others join the errors.")] = 5000,
    nodes: Annotated[float, typer.Option(help="Share of influence whose nodes the JSON keeps.")] = 0.8,
    edges: Annotated[float, typer.Option(help="Share of influence whose edges the JSON keeps.")] = 0.98,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Which features, tokens and errors make the answer to a prompt, and through which edges?

    Writes the graph (NAME.safetensors, NAME.json) and its pruned part for Neuronpedia and circuit-tracer's front end
    (neuronpedia/NAME.json), and says how far the graph holds.
    """
    if (model is None) == (named_model is None):
        raise ConfigError("name one model: interp graph MODEL ..., or --model MODEL")
    model = model or named_model or ""
    if not (0 < nodes <= 1 and 0 < edges <= 1):
        raise ConfigError(f"--nodes and --edges are shares above 0 and at most 1, not {nodes} and {edges}")
    use_threads(threads)
    from interp.circuits.checks import check_graph
    from interp.circuits.export import neuronpedia
    from interp.circuits.formats import load_transcoders
    from interp.circuits.graph import attribution_graph
    from interp.circuits.influence import capped, prune
    from interp.circuits.store import GraphStore, named
    from interp.files import make_folder, write_json
    from interp.models.load import load_model
    from interp.prompts import Prompts

    named(name)
    found = load_model(model, device=device, weights="raw")
    if found.tokenizer is None:
        raise ModelError(f"{model} has no tokenizer, so it cannot read a prompt")
    made = load_transcoders(transcoder, dtype=found.cfg.dtype)
    prompts = Prompts.from_texts([prompt], found.tokenizer)
    whole = attribution_graph(found, made, prompts)
    check = check_graph(found, made, prompts, whole)
    less, folded = capped(whole, max_feature_nodes)
    kept = prune(less, nodes=nodes, edges=edges)
    told = kept.influence
    agreement = check.agreement()
    error = float(check.frozen_error.max()) if len(check.frozen_error) else 0.0
    GraphStore.at(out).write(
        name,
        less,
        {"model": model, "transcoders": made.name, "prompt": prompt, "folded_influence": folded,
         "replacement": told.replacement, "completeness": told.completeness,
         "frozen_error": error,
         **{key: one.as_dict() for key, one in agreement.items()}},
    )  # fmt: skip
    texts = [[found.tokenizer.decode([i]) for i in part.tolist()] for part in (less.tokens, less.logits)]
    shown = neuronpedia(less, kept, *texts, slug=name, scan=made.name, threshold=nodes)
    write_json(make_folder(out / "neuronpedia") / f"{name}.json", shown)
    answers = ", ".join(f"{text!r} {float(p):.2f}" for text, p in zip(texts[1], less.probabilities, strict=True))
    typer.echo(f"answers: {answers}")
    typer.echo(
        f"{len(less.features)} features ({folded:.0%} of their influence folded into errors); replacement "
        f"{told.replacement:.2f}, completeness {told.completeness:.2f}"
    )
    typer.echo(f"{len(check.features)} features off and doubled, all else held: edges are off by at most {error:.0e}")
    typer.echo(
        f"in the running model: rank correlation {agreement['rank correlation']!r}, relative error "
        f"{agreement['relative error']!r}"
    )
    typer.echo(f"written: {out / name}.safetensors, {out / name}.json, {out / 'neuronpedia' / name}.json")
