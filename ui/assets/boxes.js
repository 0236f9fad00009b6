const canvas = element.querySelector('.dt-canvas');
const least = 0.08;
let boxes = read(props.value);
let known = '';

function read(value) {
  try { return JSON.parse(value); } catch { return []; }
}

const clamp = (share) => Math.min(1, Math.max(0, share));

function place(node, box) {
  const [left, top, right, bottom] = box.map((share) => share * 100);
  Object.assign(node.style, { left: left + '%', top: top + '%', width: right - left + '%', height: bottom - top + '%' });
}

function tell() {
  known = JSON.stringify(boxes.map((box) => box.map((share) => Number(share.toFixed(4)))));
  props.value = known;
  trigger('change');
}

function show(focus) {
  const canvas = element.querySelector('.dt-canvas');
  canvas.replaceChildren(...boxes.map((box, number) => {
    const node = document.createElement('div');
    node.className = 'dt-box';
    node.tabIndex = 0;
    node.setAttribute('role', 'group');
    node.setAttribute('aria-label', `Box ${number + 1}`);
    node.textContent = String(number + 1);
    node.dataset.number = number;
    node.append(document.createElement('i'));
    place(node, box);
    return node;
  }));
  if (focus !== undefined) canvas.children[focus]?.focus();
}

function moved(box, across, down) {
  const x = Math.min(1 - box[2], Math.max(-box[0], across));
  const y = Math.min(1 - box[3], Math.max(-box[1], down));
  return [box[0] + x, box[1] + y, box[2] + x, box[3] + y];
}

function sized(box, right, bottom) {
  return [box[0], box[1], clamp(Math.max(box[0] + least, right)), clamp(Math.max(box[1] + least, bottom))];
}

element.addEventListener('pointerdown', (event) => {
  const canvas = event.target.closest('.dt-canvas');
  if (!canvas || event.button) return;
  const area = canvas.getBoundingClientRect();
  const at = (it) => [clamp((it.clientX - area.left) / area.width), clamp((it.clientY - area.top) / area.height)];
  const [x, y] = at(event);
  const node = event.target.closest('.dt-box');
  let number = node ? Number(node.dataset.number) : boxes.length;
  const corner = !node || event.target.tagName === 'I';
  if (!node) {
    if (boxes.length >= (props.most ?? 4) || x > 1 - least || y > 1 - least) return;
    boxes.push([x, y, x + least, y + least]);
  }
  const before = [...boxes[number]];
  show(number);
  event.preventDefault();
  const move = (it) => {
    const [u, v] = at(it);
    boxes[number] = corner ? sized(before, u, v) : moved(before, u - x, v - y);
    place(element.querySelectorAll('.dt-box')[number], boxes[number]);
  };
  const end = () => {
    window.removeEventListener('pointermove', move);
    window.removeEventListener('pointerup', end);
    window.removeEventListener('pointercancel', end);
    tell();
    show(number);
  };
  window.addEventListener('pointermove', move);
  window.addEventListener('pointerup', end);
  window.addEventListener('pointercancel', end);
});

element.addEventListener('keydown', (event) => {
  const node = event.target.closest('.dt-box');
  if (!node) return;
  const number = Number(node.dataset.number);
  const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const way = ways[event.key]?.map((step) => step * 0.02);
  if (way) {
    const box = boxes[number];
    boxes[number] = event.shiftKey ? sized(box, box[2] + way[0], box[3] + way[1]) : moved(box, ...way);
  } else if (event.key === 'Delete' || event.key === 'Backspace') {
    boxes.splice(number, 1);
  } else return;
  event.preventDefault();
  tell();
  show(Math.min(number, boxes.length - 1));
});

watch('value', () => {
  if (props.value !== known) boxes = read(props.value);
  show();
});
show();
