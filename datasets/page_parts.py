"""Style and script of the preview page. The script only ever sets text, never markup: what comes from a dataset stays text."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --paper: #fbfbfa; --card: #ffffff; --ink: #1c1e21; --faint: #6b7078; --line: #dcdee2; --mark: #c8501e; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #16181c; --card: #1e2126; --ink: #e9eaec; --faint: #969ca6; --line: #353a42; --mark: #ff9a5c; }
}
:root[data-theme="light"] {
  color-scheme: light; --paper: #fbfbfa; --card: #ffffff; --ink: #1c1e21; --faint: #6b7078; --line: #dcdee2; --mark: #c8501e;
}
:root[data-theme="dark"] {
  color-scheme: dark; --paper: #16181c; --card: #1e2126; --ink: #e9eaec; --faint: #969ca6; --line: #353a42; --mark: #ff9a5c;
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 14px/1.45 system-ui, sans-serif; }
header, main { max-width: 1180px; margin: 0 auto; padding: 16px 20px; }
h1 { font-size: 22px; margin: 0 0 4px; overflow-wrap: anywhere; }
.facts, .small { color: var(--faint); font-size: 13px; overflow-wrap: anywhere; }
.bar { position: sticky; top: 0; z-index: 3; background: var(--paper); border-bottom: 1px solid var(--line); }
.bar form { max-width: 1180px; margin: 0 auto; padding: 8px 20px; display: flex; flex-wrap: wrap; gap: 10px; align-items: center; }
select, button, input { font: inherit; color: var(--ink); background: var(--card); border: 1px solid var(--line); border-radius: 6px;
  padding: 3px 8px; max-width: 240px; }
label { display: flex; gap: 6px; align-items: center; color: var(--faint); }
article { background: var(--card); border: 1px solid var(--line); border-radius: 10px; margin: 0 0 14px; padding: 14px; }
article h2 { font-size: 15px; margin: 0 0 2px; overflow-wrap: anywhere; }
.status { border: 1px solid currentColor; border-radius: 9px; padding: 0 7px; font-size: 12px; font-weight: 500; margin-left: 6px; }
.status.rejected, .status.failed { color: var(--mark); }
.both { display: grid; grid-template-columns: minmax(180px, 320px) 1fr; gap: 16px; margin-top: 10px; }
.both video, .both img { width: 100%; height: auto; display: block; background: #000; border-radius: 6px; }
.strips { position: relative; display: grid; grid-template-columns: minmax(70px, 130px) 1fr 76px; column-gap: 8px; align-content: start;
  max-height: 420px; overflow-y: auto; }
.strips .name, .strips .value { font-size: 12px; line-height: 28px; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
.strips .name { color: var(--faint); text-align: right; }
.strips .value { font-variant-numeric: tabular-nums; }
.strips svg { width: 100%; height: 28px; border-bottom: 1px solid var(--line); overflow: visible; }
.strips path { fill: none; stroke: var(--tone); stroke-width: 1.3; vector-effect: non-scaling-stroke; }
.strips line { stroke: var(--line); vector-effect: non-scaling-stroke; stroke-dasharray: 2 3; }
.over { grid-column: 2; position: relative; cursor: ew-resize; z-index: 2; touch-action: none; }
.cursor { position: absolute; top: 0; bottom: 0; width: 0; border-left: 1.5px solid var(--mark); pointer-events: none; }
.action { --tone: #3d7edb; } .reward { --tone: #2e9e5b; } .state { --tone: #9a68d0; }
@media (max-width: 700px) { .both { grid-template-columns: 1fr; } }
"""

SCRIPT = """
'use strict';
const data = JSON.parse(document.getElementById('data').textContent);
const make = (name, kind, text) => {
  const node = document.createElement(name);
  if (kind) node.className = kind;
  if (text !== undefined) node.textContent = text;
  return node;
};
const svg = (name, values) => {
  const node = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [key, value] of Object.entries(values)) node.setAttribute(key, value);
  return node;
};
const said = (value) => value === null || value === undefined ? '–'
  : Number.isInteger(value) ? String(value)
  : Math.abs(value) >= 1000 || (value && Math.abs(value) < 0.001) ? value.toExponential(1) : value.toFixed(3);

function range(values) {
  let low = Infinity, high = -Infinity;
  for (const value of values) if (value !== null) { low = Math.min(low, value); high = Math.max(high, value); }
  if (low > high) return [0, 1];
  return low === high ? [low - 1, high + 1] : [low, high];
}

function strip(signal, steps) {
  const [low, high] = range(signal.values);
  const y = (value) => (1 - (value - low) / (high - low)) * 24 + 2;
  let path = '', open = false;
  signal.values.forEach((value, t) => {
    if (value === null) { open = false; return; }
    path += (open ? 'L' : 'M') + t + ' ' + y(value).toFixed(2);
    if (signal.kind !== 'state') path += 'L' + (t + 1) + ' ' + y(value).toFixed(2);
    open = true;
  });
  const plot = svg('svg', { viewBox: '0 0 ' + steps + ' 28', preserveAspectRatio: 'none', class: signal.kind });
  if (low < 0 && high > 0) plot.append(svg('line', { x1: 0, x2: steps, y1: y(0), y2: y(0) }));
  plot.append(svg('path', { d: path }));
  const title = svg('title', {});
  title.textContent = signal.name + ': ' + said(low) + ' to ' + said(high);
  plot.append(title);
  return plot;
}

function curves(episode, seek) {
  const box = make('div', 'strips');
  const steps = Math.max(episode.length, 1);
  const shown = episode.signals.map((signal, row) => {
    const name = make('div', 'name', signal.name), plot = strip(signal, steps), value = make('div', 'value');
    name.title = signal.name;
    [name, plot, value].forEach((node, column) => { node.style.gridRow = row + 1; node.style.gridColumn = column + 1; });
    box.append(name, plot, value);
    return value;
  });
  const over = make('div', 'over'), cursor = make('div', 'cursor');
  over.style.gridRow = '1 / ' + (episode.signals.length + 1);
  over.append(cursor);
  box.append(over);
  const pull = (event) => {
    const place = over.getBoundingClientRect();
    seek(Math.max(0, Math.min(1, (event.clientX - place.left) / place.width)) * steps);
  };
  over.addEventListener('pointerdown', (event) => { over.setPointerCapture(event.pointerId); pull(event); });
  over.addEventListener('pointermove', (event) => { if (event.buttons) pull(event); });
  const show = (frame) => {
    const t = Math.max(0, Math.min(episode.length, frame));
    cursor.style.left = (100 * t / steps) + '%';
    shown.forEach((value, i) => { value.textContent = said(episode.signals[i].values[t]); });
  };
  show(0);
  return [box, show];
}

function card(episode) {
  const box = make('article'), title = make('h2', '', 'episode ' + episode.episode + ', ' + (episode.scenario || 'no scenario'));
  title.append(make('span', 'status ' + (['rejected', 'failed'].includes(episode.status) ? episode.status : 'ok'), episode.status));
  const words = [episode.policy, 'seed ' + episode.seed, episode.length + ' steps', 'return ' + said(episode.return), episode.ended];
  box.append(title, make('div', 'small', words.filter(Boolean).join(' · ')));
  for (const text of [episode.told, episode.reason]) if (text) box.append(make('div', 'small', text));
  const both = make('div', 'both'), left = make('div');
  const still = !episode.video || episode.video.startsWith('data:image/') || episode.video.endsWith('.gif');
  const film = still ? make('img') : make('video');
  if (still) film.alt = 'frames of episode ' + episode.episode;
  else Object.assign(film, { controls: true, loop: true, muted: true, playsInline: true, preload: 'auto' });
  const [strips, show] = curves(episode, (frame) => {
    if (!still) { film.pause(); film.currentTime = Math.min(Math.round(frame), episode.length) / data.fps + 0.25 / data.fps; }
    show(Math.round(frame));
  });
  const now = () => show(Math.floor(film.currentTime * data.fps + 0.01));
  const follow = () => { now(); if (!film.paused) requestAnimationFrame(follow); };
  if (!still) { film.addEventListener('play', follow); film.addEventListener('seeked', now); film.addEventListener('pause', now); }
  left.append(film);
  both.append(left, strips);
  box.append(both);
  return { box, episode, film, still };
}

const cards = data.episodes.map(card);
const list = document.getElementById('episodes');
cards.forEach((one) => list.append(one.box));
const near = new IntersectionObserver((seen) => seen.forEach((entry) => {
  const one = cards.find((other) => other.box === entry.target);
  if (entry.isIntersecting && one.episode.video && !one.film.src) one.film.src = one.episode.video;
  if (!entry.isIntersecting && !one.still) one.film.pause();
}), { rootMargin: '300px' });
cards.forEach((one) => near.observe(one.box));

const choices = ['scenario', 'policy', 'status'].map((key) => {
  const select = document.getElementById(key);
  for (const value of [...new Set(data.episodes.map((episode) => episode[key]))].sort()) {
    const option = make('option', '', value || '-');
    option.value = '=' + value;
    select.append(option);
  }
  select.addEventListener('change', filter);
  return [key, select];
});
const words = document.getElementById('words');
words.addEventListener('input', filter);
function filter() {
  let count = 0;
  for (const one of cards) {
    const text = [one.episode.told, one.episode.reason, one.episode.scenario, 'seed ' + one.episode.seed].join(' ').toLowerCase();
    const keep = choices.every(([key, select]) => !select.value || select.value === '=' + one.episode[key])
      && text.includes(words.value.toLowerCase());
    one.box.hidden = !keep;
    if (!keep && !one.still) one.film.pause();
    count += keep;
  }
  document.getElementById('count').textContent = count + ' of ' + cards.length + ' shown';
}
filter();
document.getElementById('rate').addEventListener('change', (event) => {
  for (const one of cards) if (!one.still) one.film.defaultPlaybackRate = one.film.playbackRate = Number(event.target.value);
});
document.getElementById('play').addEventListener('click', () => {
  const films = cards.filter((one) => !one.still && !one.box.hidden && one.film.src).map((one) => one.film);
  const any = films.some((film) => !film.paused);
  films.forEach((film) => any ? film.pause() : film.play());
});
document.getElementById('theme').addEventListener('click', () => {
  const root = document.documentElement, dark = matchMedia('(prefers-color-scheme: dark)').matches;
  const now = root.dataset.theme || (dark ? 'dark' : 'light');
  root.dataset.theme = now === 'dark' ? 'light' : 'dark';
});
document.querySelector('form').addEventListener('submit', (event) => event.preventDefault());
"""

BODY = """
<div class="bar"><form>
<label>scenario <select id="scenario"><option value="">all</option></select></label>
<label>policy <select id="policy"><option value="">all</option></select></label>
<label>status <select id="status"><option value="">all</option></select></label>
<input id="words" type="search" placeholder="words" aria-label="words in the description">
<label>speed <select id="rate"><option value="0.25">¼</option><option value="0.5">½</option><option value="1" selected>1</option>
<option value="2">2</option><option value="4">4</option></select></label>
<button id="play" type="button">play or pause</button>
<button id="theme" type="button">dark or light</button>
<span id="count" class="small"></span>
</form></div>
<main id="episodes"></main>
"""
