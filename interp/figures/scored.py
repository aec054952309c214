"""Every prompt with its verdict, as a page of its own."""

from __future__ import annotations

from jinja2 import Environment

from interp.analyses.verdicts import Verdicts

_PAGE = Environment(autoescape=True).from_string("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Verdicts on {{ rows | length }} prompts</title>
<style>
body { margin:0 auto; max-width:1100px; padding:32px 24px; color:#1c1c1c;
  font:15px/1.5 Inter,"Helvetica Neue",Arial,sans-serif; }
table { border-collapse:collapse; width:100%; font-size:14px; }
th, td { text-align:left; padding:5px 12px 5px 0; border-bottom:1px solid #dcdcdc; vertical-align:top; }
td.n, th.n { text-align:right; font-variant-numeric:tabular-nums; white-space:nowrap; }
.unsafe { color:#9c3a00; font-weight:600; } .safe { color:#0062a3; }
</style></head><body>
<h1>Verdicts on {{ rows | length }} prompts</h1>
<p>AUC {{ auc }}; chance is .5. Accuracy {{ accuracy }}. The largest log-odds of unsafe come first.</p>
<table><thead>
<tr><th class="n">log-odds</th><th>verdict</th><th>truth</th><th>category</th><th>prompt</th></tr>
</thead><tbody>
{% for odds, said, truth, category, text in rows %}<tr><td class="n">{{ "%+.2f" | format(odds) }}</td>
<td class="{{ said }}">{{ said }}</td><td class="{{ truth }}">{{ truth }}</td>
<td>{{ category }}</td><td>{{ text }}</td></tr>
{% endfor %}</tbody></table></body></html>
""")


def scored_page(result: Verdicts) -> str:
    """A table of all prompts, those that the judge finds most unsafe first."""
    names = {True: "unsafe", False: "safe"}
    rows = [
        (odds, names[odds > 0], names[truth], category, text)
        for odds, truth, category, text in zip(
            result.log_odds.tolist(), result.unsafe.tolist(), result.categories, result.texts, strict=True
        )
    ]
    rows.sort(key=lambda row: -row[0])
    return _PAGE.render(rows=rows, auc=repr(result.auc()), accuracy=repr(result.accuracy()))
