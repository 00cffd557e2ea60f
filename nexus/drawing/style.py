"""The style sheet of all pages: one column of text, light and dark, from phone to desk."""

CSS = """
:root {
  color-scheme: light dark;
  --paper: #fbfaf7; --card: #ffffff; --ink: #1d1e22; --soft: #5d5f66; --line: #e4e1d9;
  --accent: #2c6e9b; --bar: #cfccc3; --accent-bar: #7fb0d1; --mark: #c2562d;
  --right: #2f855a; --wrong: #c54434;
  --serif: "Iowan Old Style", Charter, "Bitstream Charter", "Palatino Linotype", Georgia, serif;
  --sans: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  --mono: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #16171a; --card: #1e2024; --ink: #ececea; --soft: #a6a8ae; --line: #33353b;
    --accent: #7ab8e0; --bar: #4a4c53; --accent-bar: #3a7199; --mark: #ee9268;
    --right: #57b98a; --wrong: #ec7565;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 17px/1.6 var(--sans); text-rendering: optimizeLegibility;
}
main { max-width: 1080px; margin: 0 auto; padding: 56px 28px 96px; }
h1, h2, .verdict { font-family: var(--serif); font-weight: 600; letter-spacing: -.011em; }
h1 { margin: 0; font: 600 14px/1.4 var(--sans); letter-spacing: .04em; color: var(--soft); }
.verdict { margin: 14px 0 0; max-width: 23em; font-size: clamp(27px, 4.4vw, 42px);
  line-height: 1.2; text-wrap: balance; }
.lead { margin: 18px 0 0; max-width: 62ch; color: var(--soft); }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(130px, 1fr)); gap: 1px;
  margin: 34px 0 0; padding: 0; background: var(--card);
  border: 1px solid var(--line); border-radius: 10px; overflow: hidden; }
.facts div { padding: 13px 16px 14px; box-shadow: 1px 1px 0 var(--line); }
.facts dt { font-size: 13px; color: var(--soft); }
.facts dd { margin: 1px 0 0; font-size: 18px; font-weight: 600; overflow-wrap: anywhere; }
section { margin-top: 68px; }
h2 { margin: 0 0 8px; font-size: 27px; line-height: 1.25; }
h3 { margin: 30px 0 12px; font-size: 16px; font-weight: 600; }
.explain { margin: 0 0 24px; max-width: 66ch; color: var(--soft); }
a { color: var(--accent); }

.scores { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
.scores th { padding: 0 14px 9px 0; font-size: 14px; font-weight: 500; text-align: left;
  color: var(--soft); border-bottom: 1px solid var(--line); white-space: nowrap; }
.scores td { padding: 13px 14px 13px 0; border-bottom: 1px solid var(--line);
  vertical-align: middle; }
.scores tbody th { padding: 13px 18px 13px 0; font-size: 17px; color: var(--ink); }
.scores tbody th small { display: block; font-size: 13.5px; font-weight: 400;
  color: var(--soft); white-space: normal; }
.scores .number { width: 1%; padding-right: 22px; white-space: nowrap; font-weight: 600; font-size: 19px; }
.scores .number small { display: block; font-size: 13px; font-weight: 400; color: var(--soft); }
.scores .best th, .scores .best .number { color: var(--accent); }
.scores .best .number small, .scores .best th small { color: var(--soft); }
.scores .plot { width: 52%; padding-right: 34px; }
.scores .best th { font-weight: 700; }
.scores .guess { color: var(--mark); font-size: 14px; }
.track { position: relative; height: 24px; }
.track::before { content: ""; position: absolute; inset: 11px 0 11px 0; background: var(--line);
  border-radius: 2px; }
.track i { position: absolute; display: block; }
.track .bar { left: 0; top: 6px; bottom: 6px; background: var(--bar); border-radius: 2px; }
.best .track .bar { background: var(--accent-bar); }
.track .interval { top: 11px; height: 2px; background: var(--ink); }
.track .interval::before, .track .interval::after { content: ""; position: absolute; top: -4px;
  width: 2px; height: 10px; background: var(--ink); }
.track .interval::before { left: 0; }
.track .interval::after { right: 0; }
.track .chance { top: 0; bottom: 0; width: 0; border-left: 1.5px dashed var(--mark); }
.footnote { margin: 14px 0 0; max-width: 72ch; font-size: 14.5px; color: var(--soft); }
.key-chance { color: var(--mark); }

.curves { display: grid; gap: 26px 30px;
  grid-template-columns: repeat(auto-fill, minmax(min(290px, 100%), 1fr)); }
figure { margin: 0; }
.curves figcaption { margin-bottom: 6px; font-size: 15px; font-weight: 600; line-height: 1.35; }
.curves figcaption span { display: block; font-size: 13.5px; font-weight: 400;
  color: var(--soft); }
.curves img { display: block; width: 100%; height: auto; }

.sheets { display: grid; gap: 30px; }
.sheets .frame { overflow-x: auto; border: 1px solid var(--line); border-radius: 10px;
  background: #faf9f6; }
.sheets img { display: block; width: 100%; min-width: 640px; height: auto; margin: 0 auto; }
.sheets figcaption { margin-top: 8px; font-size: 14.5px; color: var(--soft); }

.cards { display: grid; gap: 22px;
  grid-template-columns: repeat(auto-fill, minmax(min(430px, 100%), 1fr)); }
.card { padding: 16px; background: var(--card); border: 1px solid var(--line);
  border-radius: 10px; }
.photos { display: grid; gap: 22px; }
.three { display: grid; grid-template-columns: repeat(3, 1fr); gap: 10px; }
.three img { display: block; width: 100%; height: auto; border-radius: 4px; }
.three .patches { image-rendering: pixelated; }
.three figcaption { margin-top: 6px; font-size: 13.5px; color: var(--soft); text-align: center; }

.likeness { display: grid; grid-template-columns: 30% 1fr; gap: 18px; align-items: start; }
.likeness img { display: block; width: 100%; aspect-ratio: 1; object-fit: cover;
  border-radius: 4px; }
.likeness figcaption { margin-top: 5px; font-size: 14.5px; font-weight: 600; line-height: 1.3; }
.row + .row { margin-top: 14px; }
.row p { display: flex; justify-content: space-between; gap: 10px; margin: 0 0 6px;
  font-size: 13.5px; line-height: 1.3; color: var(--soft); }
.row ol { display: grid; grid-template-columns: repeat(5, 1fr); gap: 6px; margin: 0; padding: 0;
  list-style: none; }
.row li { min-width: 0; font-size: 12px; line-height: 1.3; color: var(--soft); }
.row li img { border: 3px solid var(--line); border-radius: 5px; }
.row li.right img { border-color: var(--right); }
.row li.wrong img { border-color: var(--wrong); border-style: dashed; }
.row li span { display: block; margin-top: 3px; overflow: hidden; text-overflow: ellipsis;
  white-space: nowrap; }

.sheets + .settings { margin-top: 34px; }
.settings { width: 100%; border-collapse: collapse; font-size: 15.5px; }
.settings th, .settings td { padding: 8px 18px 8px 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); font-weight: 400; overflow-wrap: anywhere; }
.settings th { width: 34%; color: var(--soft); }
.commands { margin: 0; }
.commands dt { margin-top: 16px; }
.commands dd { margin: 6px 0 0; }
pre { margin: 0; padding: 12px 16px; overflow-x: auto; font: 14.5px/1.5 var(--mono);
  background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
footer { margin-top: 68px; padding-top: 18px; border-top: 1px solid var(--line);
  font-size: 14px; color: var(--soft); }

@media (max-width: 700px) {
  main { padding: 34px 18px 64px; }
  section { margin-top: 52px; }
  body { font-size: 16px; }
  h2 { font-size: 24px; }
  .scores, .scores tbody, .scores tr { display: block; }
  .scores thead { display: none; }
  .scores tr { display: grid; grid-template-columns: 1fr 1fr; gap: 8px 16px; padding: 16px 0 14px;
    border-bottom: 1px solid var(--line); }
  .scores tbody th { grid-column: 1 / -1; padding: 0; border: 0; }
  .scores td { padding: 0; border: 0; }
  .scores .number::before { content: attr(data-name); display: block; font-size: 13px;
    font-weight: 400; color: var(--soft); }
  .scores .number { width: auto; }
  .scores .plot { width: auto; padding: 0; grid-row: 2; grid-column: 1 / -1; }
  .card { padding: 12px; }
  .photos .three { grid-template-columns: 1fr 1fr; }
  .photos figure:first-child { grid-column: 1 / -1; }
  .likeness { grid-template-columns: 25% 1fr; gap: 12px; }
  .likeness figcaption { font-size: 13px; overflow-wrap: anywhere; }
  .row ol { gap: 4px; }
  .row li { font-size: 11px; }
  .settings th { width: 42%; }
}
@media print {
  section, .card, figure { break-inside: avoid; }
}
"""
