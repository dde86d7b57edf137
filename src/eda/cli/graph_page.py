"""The style and the script of the page that shows a graph."""

from __future__ import annotations

__all__ = ["SCRIPT", "STYLE"]

STYLE = """
:root{--back:#fff;--text:#1c2733;--dim:#5f6f80;--line:#9fb0c0;--box:#f4f7fa;--edge:#c6d1dc;--mark:#d9480f}
@media(prefers-color-scheme:dark){:root{--back:#14191f;--text:#e3e9ef;--dim:#94a3b3;--line:#52616f;--box:#1e262e;
--edge:#3a4754;--mark:#ff922b}}
*{box-sizing:border-box}
body{margin:0;height:100vh;display:flex;flex-direction:column}
body{background:var(--back);color:var(--text);font:14px/1.4 system-ui,sans-serif}
header,#types{padding:0 16px;margin:10px 0}
h1{font-size:18px;margin:0}p{margin:4px 0 8px;color:var(--dim)}
input[type=search]{width:320px;max-width:60%;padding:5px 8px;font:inherit;color:inherit;background:var(--box);
border:1px solid var(--edge);border-radius:5px}
button{font:inherit;min-width:30px;padding:4px 8px;margin-left:4px;color:inherit;background:var(--box);
border:1px solid var(--edge);border-radius:5px;cursor:pointer}
#found{color:var(--dim);margin:0 8px}
#types{list-style:none;display:flex;flex-wrap:wrap;gap:2px 16px;max-height:90px;overflow:auto}
#types li{color:var(--dim)}#types label{color:var(--text);cursor:pointer}
main{overflow:auto;border-top:1px solid var(--edge);flex:1;min-height:200px}
svg text{fill:var(--text);font-size:12.5px;pointer-events:none}svg .low{fill:var(--dim);font-size:11px}
path{fill:none;stroke:var(--line);stroke-width:1.5}
g{cursor:pointer;outline:none}.box{fill:var(--box);stroke:var(--edge)}
g:hover .box,g:focus .box{stroke:var(--text)}
.gone .box{fill:none;stroke-dasharray:4 3}
.dim{opacity:.15}
path.on{stroke:var(--mark);stroke-width:2.5}g.on .box{stroke:var(--mark);stroke-width:2}g.this .box{stroke-width:4}
aside{position:fixed;right:16px;bottom:16px;width:430px;max-width:90%;max-height:60%;overflow:auto;padding:12px 14px;
background:var(--back);border:1px solid var(--edge);border-radius:8px;box-shadow:0 4px 18px #0004}
aside button{float:right}dl{margin:0;display:grid;grid-template-columns:auto 1fr;gap:3px 12px}
dt{color:var(--dim)}dd{margin:0;overflow-wrap:anywhere}
"""

SCRIPT = """
'use strict';
const boxes = JSON.parse(document.getElementById('data').textContent);
const svg = document.getElementById('graph'), details = document.getElementById('details');
const groups = [], paths = [], effects = boxes.map(() => []);
svg.querySelectorAll('g[data-n]').forEach(each => groups[each.dataset.n] = each);
svg.querySelectorAll('path[data-n]').forEach(each => paths[each.dataset.n] = each);
boxes.forEach((box, n) => { if (box.parent !== null) effects[box.parent].push(n); });

function mark(chosen) {
  svg.querySelectorAll('.on,.this').forEach(each => each.classList.remove('on', 'this'));
  details.hidden = chosen === null;
  if (chosen === null) return;
  for (let n = chosen; n !== null; n = boxes[n].parent) {
    groups[n].classList.add('on');
    if (paths[n]) paths[n].classList.add('on');
  }
  const waiting = [...effects[chosen]];
  while (waiting.length) {
    const n = waiting.pop();
    groups[n].classList.add('on');
    paths[n].classList.add('on');
    waiting.push(...effects[n]);
  }
  groups[chosen].classList.add('this');
  const list = details.querySelector('dl');
  list.replaceChildren();
  for (const [name, value] of Object.entries(boxes[chosen])) {
    if (name === 'parent' || value === '') continue;
    list.append(Object.assign(document.createElement('dt'), {textContent: name}),
                Object.assign(document.createElement('dd'), {textContent: value}));
  }
}

function filter() {
  const words = document.getElementById('find').value.toLowerCase();
  const off = new Set();
  document.querySelectorAll('#types input').forEach(each => { if (!each.checked) off.add(each.dataset.type); });
  let n_found = 0, first = null;
  boxes.forEach((box, n) => {
    const texts = [box.id, box.type, box.aggregate, box.client, box.place].join(' ').toLowerCase();
    const fits = texts.includes(words) && !off.has(box.type);
    groups[n].classList.toggle('dim', !fits);
    if (paths[n]) paths[n].classList.toggle('dim', !fits);
    if (fits) { n_found += 1; first = first === null ? n : first; }
  });
  document.getElementById('found').textContent = words ? n_found + ' found' : '';
  if (words && first !== null) groups[first].scrollIntoView({block: 'nearest', inline: 'nearest'});
}

let scale = 1;
const width = svg.width.baseVal.value, height = svg.height.baseVal.value;
function zoom(factor) {
  scale = Math.min(4, Math.max(0.05, scale * factor));
  svg.setAttribute('width', width * scale);
  svg.setAttribute('height', height * scale);
}

svg.addEventListener('click', event => {
  const group = event.target.closest('g[data-n]');
  mark(group ? Number(group.dataset.n) : null);
});
svg.addEventListener('keydown', event => {
  const group = event.target.closest('g[data-n]');
  if (group && event.key === 'Enter') mark(Number(group.dataset.n));
});
document.addEventListener('keydown', event => { if (event.key === 'Escape') mark(null); });
document.getElementById('close').addEventListener('click', () => mark(null));
document.getElementById('find').addEventListener('input', filter);
document.getElementById('types').addEventListener('change', filter);
document.getElementById('in').addEventListener('click', () => zoom(1.25));
document.getElementById('out').addEventListener('click', () => zoom(0.8));
"""
