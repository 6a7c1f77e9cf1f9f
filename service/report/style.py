"""The page's style sheet; its colours are the palette's."""

from service.report.palette import COLOURS

__all__ = ["STYLE"]

_LIGHT = {"page": "#f6f7f9", "card": "#ffffff", "caution": "#b45309", "caution-ground": "#fff7e8"}
_DARK = {"page": "#14171b", "card": "#1c2026", "caution": "#f2b04c", "caution-ground": "#2a2314"}


def _variables(values: dict[str, str]) -> str:
    return " ".join(f"--{name}: {value};" for name, value in values.items())


_COLOURS = f"""
:root {{ color-scheme: light dark; {_variables({name: colour.light for name, colour in COLOURS.items()} | _LIGHT)} }}
@media (prefers-color-scheme: dark) {{
  :root {{ {_variables({name: colour.dark for name, colour in COLOURS.items()} | _DARK)} }}
}}
"""

STYLE = (
    _COLOURS
    + """
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); overflow-wrap: break-word;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif; }
main { max-width: 72rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .4rem; text-wrap: balance; }
h2 { font-size: 1.1rem; margin: 0 0 .7rem; }
section { margin-top: 2rem; }
.facts { display: flex; flex-wrap: wrap; gap: .2rem 1.4rem; margin: 0; color: var(--muted); }
.facts b { color: var(--ink); font-weight: 600; }
.tiles { display: grid; gap: .8rem; margin-top: 1.4rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 15rem), 1fr)); }
.tile, figure, .scroll, .provenance dl { background: var(--card); border: 1px solid var(--rule); border-radius: .5rem; }
.tile { padding: .8rem 1rem; }
.tile h2 { font-size: .85rem; font-weight: 500; color: var(--muted); margin: 0; }
.tile p { margin: 0; font-size: .82rem; color: var(--muted); line-height: 1.4; }
.tile .number { font-size: 1.8rem; font-weight: 600; line-height: 1.3; color: var(--ink); }
.warnings { border-left: 4px solid var(--caution); background: var(--caution-ground); padding: .8rem 1rem;
  border-radius: 0 .5rem .5rem 0; }
.warnings h2 { margin-bottom: .3rem; color: var(--caution); }
.warnings ul { margin: 0; padding-left: 1.1rem; }
.warnings li + li { margin-top: .3rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .5rem .8rem; text-align: right; vertical-align: baseline; white-space: nowrap; }
thead th { font-weight: 500; color: var(--muted); border-bottom: 1px solid var(--rule); vertical-align: bottom;
  white-space: normal; min-width: 4.5rem; line-height: 1.25; }
th:first-child { text-align: left; }
tbody tr + tr > * { border-top: 1px solid var(--rule); }
tbody th { font-weight: 400; }
tbody b { font-weight: 600; }
td small { color: var(--muted); }
.chip { font-size: .75rem; padding: .05rem .45rem; border-radius: 1rem; border: 1px solid var(--muted);
  color: var(--muted); white-space: nowrap; }
.chip.unseen { border-style: dashed; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)); gap: .8rem; }
.figures.single { grid-template-columns: minmax(0, 1fr); }
figure { margin: 0; padding: .7rem .8rem; min-width: 0; }
.plot { display: block; width: 100%; height: auto; stroke-linejoin: round; stroke-linecap: butt; }
.plot text { font-family: inherit !important; }
figcaption, .caption { font-size: .87rem; color: var(--muted); max-width: 62rem; }
figcaption { margin-top: .5rem; }
@media (min-width: 60rem) {
  .single figure { display: grid; grid-template-columns: 1fr 1fr; gap: 1.5rem; align-items: center; }
}
.caption { margin: .6rem 0 0; }
details { font-size: .87rem; }
.caption + details { margin-top: .6rem; }
summary { cursor: pointer; color: var(--muted); }
code, pre { font: .82rem/1.45 ui-monospace, "SF Mono", Consolas, "DejaVu Sans Mono", monospace; }
.provenance dl { margin: 0; padding: .8rem 1rem; display: grid; grid-template-columns: minmax(6rem, max-content) 1fr;
  gap: .35rem 1.2rem; font-size: .9rem; }
.provenance dt { color: var(--muted); }
.provenance dd { margin: 0; min-width: 0; }
pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1rem; margin: .8rem 0 0; padding: 0;
  font-size: .9rem; }
a { color: var(--series-1); }
:focus-visible { outline: 2px solid var(--series-1); outline-offset: 2px; }
h3 { font-size: 1rem; margin: 1.2rem 0 .5rem; }
.name { overflow-wrap: anywhere; }
th .name { display: inline-block; max-width: 20rem; overflow-wrap: break-word; white-space: normal;
  vertical-align: bottom; }
thead th .name { max-width: 9rem; }
tbody th { position: sticky; left: 0; background: var(--card); }
.detector { margin-top: .7rem; }
.detector > details { font-size: inherit; }
.detector > details > summary { color: var(--ink); padding: .2rem 0; }
.detector > details > details { margin: .4rem 0 .8rem; font-size: inherit; }
.detector details details details { margin-top: .4rem; }
.detector summary small { color: var(--muted); font-weight: 400; }
.detector.baseline > details > summary { color: var(--muted); }
tr.baseline > th, tr.baseline > td:not([class^="h"]) { background: var(--page); color: var(--muted); }
tbody tr.apart:not(:first-child) > * { border-top: 2px solid var(--rule); }
tbody tr:not(.baseline) + tr.baseline > * { border-top: 3px double var(--muted); }
.beside { color: var(--muted); background: var(--page); }
.beside.first { border-left: 2px solid var(--muted); }
th small { color: var(--muted); font-weight: 400; }
.chip.broken { border-color: var(--caution); color: var(--caution); }
.results td small { display: block; }
.heat { font-size: .87rem; width: auto; }
.scroll:has(> .heat) { width: fit-content; max-width: 100%; }
.heat thead th + th { text-align: center; }
.heat tbody th small { display: block; max-width: 20rem; white-space: normal; line-height: 1.2; }
.heat th, .heat td { padding: .3rem .5rem; }
.heat td { text-align: center; vertical-align: middle; min-width: 3.4rem; }
.heat td small { color: inherit; }
.seen-cell { box-shadow: inset 0 0 0 2px var(--ink); }
.heat-legend { display: flex; margin: 0 0 .5rem; font-size: .8rem; }
.heat-legend span { padding: .1rem .7rem; }
.warnings details ul { margin-top: .4rem; }
figure .scroll { margin-top: .6rem; }
dl { margin: .4rem 0; }
@media (max-width: 32rem) {
  body { font-size: 15px; }
  h1 { font-size: 1.35rem; }
  th, td { padding: .4rem .5rem; }
  thead th { min-width: 3.6rem; }
  td small { display: block; }
  th .name { max-width: 8rem; }
  .chip { display: block; width: fit-content; }
  .provenance dl { display: block; }
  .provenance dd { margin: 0 0 .5rem; }
}
"""
)
