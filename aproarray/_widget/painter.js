// The widget in the browser: draws the pictures that Python sends, and sends what was painted.
//
// Python holds strokes and labels (_painter.py). A stroke is drawn here as it is painted, and until the
// answer comes. Points are [row, column] in pixels of the image. Strokes that are painted while Python works
// on others wait, and go out together.

const KEYS = [
  ["1 … 9", "class"], ["0 or e", "eraser"], ["[ and ]", "brush size"], ["z", "undo"], ["y", "redo"],
  ["l", "show or hide labels"], ["k", "show or hide strokes"], ["o and p", "opacity of labels"],
  ["+ and −", "zoom"], ["f", "fit the image"], ["m", "paint or move"],
  ["arrows", "move the brush (Shift: by one pixel), or the image"],
  ["Space", "put the brush down, or lift it"], ["Enter", "paint a dot"], ["Escape", "drop the stroke"],
];
const WHEEL = 0.0015; // powers of e for each pixel that is scrolled
const MOST_SIZE = 200; // of the slider
const LONGEST_CANVAS = 640; // CSS pixels, down
const PATIENCE = 800; // milliseconds until a status says that Python is at work

function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  // Lumino's attribute, on all that takes the focus: JupyterLab leaves keys to it.
  if (made.matches("button, input, canvas, summary")) made.setAttribute("data-lm-suppress-shortcuts", "true");
  made.append(...children);
  return made;
}

function render({ model, el }) {
  const id = Math.random().toString(36).slice(2);
  const [height, width] = model.get("_shape");
  const pictures = {}; // bitmaps by the names of their traits, and the box of the closer ones
  const view = { scale: 1, x: 0, y: 0, fitted: true }; // CSS pixels = scale * pixels + (x, y)
  const shown = { labels: true, strokes: true };
  const pointers = new Map(); // pointers that are down
  const outbox = []; // actions that wait
  let sent = null; // actions that Python works on
  let messages = 0;
  let stroke = null; // the one that is being painted
  let cursor = [height / 2, width / 2];
  let cursorSeen = false;
  let moving = false; // whether a pointer moves the image
  let connected = true;
  let widthSeen = 0;
  let timer, lookTimer, frame;

  // ---------------------------------------------------------------- what there is to see

  const canvas = element("canvas", {
    tabIndex: 0, className: "aproarray-canvas", role: "application",
    "aria-label": `Image of ${width} by ${height} pixels to paint on. Keys are listed below.`,
  });
  const context = canvas.getContext("2d");
  const status = element("div", { role: "status", className: "aproarray-status" });

  function button(label, key, title, act) {
    const made = element("button", { type: "button", title: key ? `${title} (${key})` : title, onclick: act });
    made.append(label);
    if (key) {
      made.setAttribute("aria-keyshortcuts", key);
      made.append(element("kbd", { "aria-hidden": "true" }, key));
    }
    return made;
  }
  function slider(label, trait, properties) {
    const input = element("input", { type: "range", ...properties });
    input.oninput = () => change(trait, Number(input.value));
    return [element("label", {}, label, input), input];
  }
  const eraser = button("Eraser", "e", "Erase strokes", () => change("active", 0));
  const undo = button("Undo", "z", "Take the last stroke back", () => act({ do: "undo" }));
  const redo = button("Redo", "y", "Make it again", () => act({ do: "redo" }));
  const [sizeLabel, size] = slider("Brush", "brush_size", { min: 1, max: MOST_SIZE, step: 1 });
  const [opacityLabel, opacity] = slider("Opacity", "opacity", { min: 0, max: 1, step: 0.05 });
  const labelsShown = button("Labels", "l", "Show or hide labels", () => toggle("labels"));
  const strokesShown = button("Strokes", "k", "Show or hide strokes", () => toggle("strokes"));
  const move = button("Move", "m", "Move the image, rather than paint", () => setMoving(!moving));
  const closer = button("Zoom in", "+", "Zoom in", () => zoomBy(1.5));
  const farther = button("Zoom out", "-", "Zoom out", () => zoomBy(1 / 1.5));
  const fitted = button("Fit", "f", "Show the whole image", fit);
  const inWindow = element("input", { type: "checkbox" });
  inWindow.onchange = () => change("extent", inWindow.checked ? "window" : "image");
  const extent = element("label", { title: "Propagate over what is seen, rather than the whole image" },
    inWindow, "in the window");
  const classes = element("span", { role: "group", "aria-label": "Classes", className: "aproarray-group" });
  const bar = element("div", { role: "toolbar", "aria-label": "Painting", className: "aproarray-bar" },
    classes, eraser, sizeLabel, undo, redo, labelsShown, strokesShown, opacityLabel,
    closer, farther, fitted, move, extent);
  const keys = element("details", {}, element("summary", {}, "Keys"),
    element("dl", {}, ...KEYS.map(([key, what]) =>
      element("div", {}, element("dt", {}, element("kbd", {}, key)), element("dd", {}, what)))));
  const root = element("div", { className: "aproarray" }, bar, status, canvas, keys);
  el.append(root);

  function change(trait, value) {
    model.set(trait, value);
    model.save_changes();
    showControls();
  }
  function toggle(layer) {
    shown[layer] = !shown[layer];
    showControls();
  }
  function setMoving(wanted) {
    moving = wanted;
    showControls();
  }
  function showClasses() {
    classes.replaceChildren(...model.get("classes").map(({ name, color }, at) => {
      const made = button("", at < 9 ? String(at + 1) : "", `Paint ${name}`, () => change("active", at + 1));
      const swatch = element("span", { className: "aproarray-swatch" });
      swatch.style.background = color;
      made.prepend(swatch, name);
      return made;
    }));
  }
  function showControls() {
    const active = model.get("active");
    [...classes.children].forEach((one, at) => one.setAttribute("aria-pressed", String(active === at + 1)));
    eraser.setAttribute("aria-pressed", String(active === 0));
    labelsShown.setAttribute("aria-pressed", String(shown.labels));
    strokesShown.setAttribute("aria-pressed", String(shown.strokes));
    move.setAttribute("aria-pressed", String(moving));
    undo.disabled = !connected || !model.get("_can_undo");
    redo.disabled = !connected || !model.get("_can_redo");
    size.value = model.get("brush_size");
    size.setAttribute("aria-valuetext", `${model.get("brush_size")} pixels`);
    opacity.value = model.get("opacity");
    inWindow.checked = model.get("extent") === "window";
    extent.hidden = model.get("_step") === 1;
    canvas.classList.toggle("aproarray-moving", moving);
    draw();
  }
  function say(text) {
    status.textContent = text;
  }

  // ---------------------------------------------------------------- drawing

  function draw() {
    frame ??= requestAnimationFrame(() => {
      frame = undefined;
      paintCanvas();
    });
  }
  function layer(name, alpha, smooth) {
    context.globalAlpha = alpha;
    context.imageSmoothingEnabled = smooth;
    const box = pictures._box;
    const closerName = name.replace("_image", "_closer");
    const hasCloser = box?.length && pictures[closerName];
    if (pictures[name]) {
      context.save();
      if (hasCloser && name !== "_image") { // labels let the image through: never two on one another
        context.beginPath();
        context.rect(0, 0, width, height);
        context.rect(box[1], box[0], box[3] - box[1], box[2] - box[0]);
        context.clip("evenodd");
      }
      // The scaled picture's last pixels may reach over the border of the image.
      const step = model.get("_step");
      context.drawImage(pictures[name], 0, 0, pictures[name].width * step, pictures[name].height * step);
      context.restore();
    }
    if (hasCloser) {
      const picture = pictures[closerName];
      context.drawImage(picture, box[1], box[0], picture.width * box[4], picture.height * box[4]);
    }
    context.globalAlpha = 1;
  }
  function way({ points, label, size: diameter }) {
    context.strokeStyle = label ? model.get("classes")[label - 1]?.color : "rgba(255, 255, 255, 0.7)";
    context.lineWidth = Math.max(diameter, 1);
    context.lineCap = context.lineJoin = "round";
    context.beginPath();
    const [row, column] = points[0];
    context.moveTo(column, row);
    for (const [r, c] of points) context.lineTo(c, r);
    if (points.length === 1) context.lineTo(column + 0.01, row);
    context.stroke();
  }
  function ring(x, y, radius, color, width) {
    context.strokeStyle = color;
    context.lineWidth = width;
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.stroke();
  }
  function paintCanvas() {
    const ratio = window.devicePixelRatio || 1;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.translate(view.x, view.y);
    context.scale(view.scale, view.scale);
    context.beginPath();
    context.save();
    context.rect(0, 0, width, height);
    context.clip();
    layer("_image", 1, view.scale < 2);
    if (shown.labels) layer("_image_labels", model.get("opacity"), false);
    if (shown.strokes) layer("_image_strokes", 1, false);
    for (const action of [...(sent ?? []), ...outbox]) if (action.do === "paint") way(action);
    if (stroke) way(stroke);
    context.restore();
    if (cursorSeen && connected && !moving) {
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      const [x, y] = [cursor[1] * view.scale + view.x, cursor[0] * view.scale + view.y];
      const radius = Math.max((model.get("brush_size") / 2) * view.scale, 3);
      ring(x, y, radius + 1, "black", 3);
      ring(x, y, radius + 1, "white", stroke ? 2.5 : 1.2);
    }
  }

  // ---------------------------------------------------------------- what is seen of the image

  function resize() {
    const across = root.clientWidth;
    if (!across || across === widthSeen) return;
    widthSeen = across;
    const down = Math.round(Math.min((across * height) / width, LONGEST_CANVAS));
    const ratio = window.devicePixelRatio || 1;
    canvas.style.height = `${down}px`;
    canvas.width = Math.round(across * ratio);
    canvas.height = Math.round(down * ratio);
    if (view.fitted) fit();
    else see();
  }
  function seenSize() {
    const ratio = window.devicePixelRatio || 1;
    return [canvas.width / ratio, canvas.height / ratio];
  }
  function fit() {
    const [across, down] = seenSize();
    const scale = Math.min(across / width, down / height);
    Object.assign(view, {
      scale, x: (across - width * scale) / 2, y: (down - height * scale) / 2, fitted: true,
    });
    see();
  }
  function see() { // keep a part of the image in the middle, and ask for what is seen of a large one
    const [across, down] = seenSize();
    view.x = Math.min(Math.max(view.x, across / 2 - width * view.scale), across / 2);
    view.y = Math.min(Math.max(view.y, down / 2 - height * view.scale), down / 2);
    draw();
    if (model.get("_step") === 1) return;
    clearTimeout(lookTimer);
    lookTimer = setTimeout(() => {
      const detailed = view.scale * (window.devicePixelRatio || 1) * model.get("_step") > 1.2;
      if (detailed || pictures._box?.length) act({ do: "look", closer: detailed });
    }, 200);
  }
  function zoomBy(factor, x, y) {
    const [across, down] = seenSize();
    [x, y] = [x ?? across / 2, y ?? down / 2];
    const smallest = Math.min(across / width, down / height) / 2;
    const scale = Math.min(Math.max(view.scale * factor, Math.min(smallest, 1)), 64);
    view.x = x - ((x - view.x) * scale) / view.scale;
    view.y = y - ((y - view.y) * scale) / view.scale;
    view.scale = scale;
    view.fitted = false;
    see();
  }
  function pan(x, y) {
    view.x += x;
    view.y += y;
    view.fitted = false;
    see();
  }
  function seenBox() {
    const [across, down] = seenSize();
    return [-view.y, -view.x, down - view.y, across - view.x].map((at) => at / view.scale);
  }

  // ---------------------------------------------------------------- to Python and back

  function act(action) {
    if (!connected) return;
    outbox.push(action);
    send();
  }
  function send() {
    if (sent || !outbox.length || !connected) return;
    sent = outbox.splice(0);
    timer = setTimeout(() => say("waiting for Python …"), PATIENCE);
    canvas.setAttribute("aria-busy", "true");
    tell(sent);
  }
  function tell(actions) {
    messages += 1;
    model.send({ message: [id, messages], actions, window: seenBox() });
  }
  let decoding = Promise.resolve(); // pictures are shown in the order in which they came
  const changed = new Set();
  async function decode() {
    const names = [...changed];
    changed.clear();
    const found = await Promise.all(names.map(async (name) => {
      const bytes = model.get(name);
      if (name === "_box") return bytes;
      return bytes?.byteLength ? createImageBitmap(new Blob([bytes], { type: "image/png" })) : null;
    }));
    names.forEach((name, at) => {
      pictures[name]?.close?.();
      pictures[name] = found[at];
    });
    draw();
  }
  const PICTURES = ["_image", "_image_labels", "_image_strokes", "_closer", "_closer_labels", "_closer_strokes",
    "_box"];
  function picturesChanged(names) {
    if (!changed.size) decoding = decoding.then(decode).catch((error) => say(String(error)));
    names.forEach((name) => changed.add(name));
  }
  function answered() {
    const [view, message] = model.get("_answered");
    if (view !== id || message !== messages) return;
    decoding = decoding.then(() => {
      clearTimeout(timer);
      connected = true;
      root.classList.remove("aproarray-off");
      sent = null;
      canvas.removeAttribute("aria-busy");
      say(model.get("_status"));
      showControls();
      send();
    });
  }
  function disconnected() {
    connected = false;
    outbox.length = 0;
    sent = stroke = null;
    clearTimeout(timer);
    canvas.removeAttribute("aria-busy");
    root.classList.add("aproarray-off");
    say("Python has been restarted, or is gone: run the cell again to paint.");
    showControls();
    try {
      tell([]); // an answer means that there is another way to Python
    } catch {} // there is none
  }

  // ---------------------------------------------------------------- painting

  function begin(point) {
    if (!connected) return;
    stroke = { do: "paint", label: model.get("active"), size: model.get("brush_size"), points: [point] };
    draw();
  }
  function extend(point) {
    const [row, column] = stroke.points.at(-1);
    const apart = Math.max(stroke.size / 8, 0.5);
    if (Math.hypot(point[0] - row, point[1] - column) >= apart) stroke.points.push(point);
    draw();
  }
  function finish() {
    if (!stroke) return;
    const painted = stroke;
    stroke = null;
    act(painted);
    draw();
  }
  function drop() {
    stroke = null;
    draw();
  }
  function place(event) {
    const { left, top } = canvas.getBoundingClientRect();
    return [event.clientX - left, event.clientY - top];
  }
  function pixel([x, y]) {
    const digits = (at) => Math.round(at * 100) / 100;
    return [digits((y - view.y) / view.scale), digits((x - view.x) / view.scale)];
  }

  canvas.onpointerdown = (event) => {
    event.preventDefault();
    canvas.focus({ preventScroll: true });
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, { at: place(event), pans: moving || event.button !== 0 || event.shiftKey });
    cursor = pixel(place(event));
    if (pointers.size > 1) drop(); // two fingers move and zoom
    else if (!pointers.get(event.pointerId).pans) begin(cursor);
  };
  canvas.onpointermove = (event) => {
    cursorSeen = true;
    const at = place(event);
    const pointer = pointers.get(event.pointerId);
    if (pointer && pointers.size === 2) {
      const [other] = [...pointers].filter(([number]) => number !== event.pointerId).map(([, one]) => one.at);
      const before = Math.hypot(pointer.at[0] - other[0], pointer.at[1] - other[1]);
      const after = Math.hypot(at[0] - other[0], at[1] - other[1]);
      pan((at[0] - pointer.at[0]) / 2, (at[1] - pointer.at[1]) / 2);
      if (before > 0) zoomBy(after / before, (at[0] + other[0]) / 2, (at[1] + other[1]) / 2);
    } else if (pointer?.pans) {
      pan(at[0] - pointer.at[0], at[1] - pointer.at[1]);
    } else if (pointer && stroke) {
      const events = event.getCoalescedEvents?.() ?? [];
      for (const one of events.length ? events : [event]) extend(pixel(place(one)));
    }
    if (pointer) pointer.at = at;
    cursor = pixel(at);
    draw();
  };
  canvas.onpointerup = (event) => {
    const pointer = pointers.get(event.pointerId);
    pointers.delete(event.pointerId);
    if (pointer && !pointer.pans) finish();
  };
  canvas.onpointercancel = (event) => {
    pointers.delete(event.pointerId);
    drop();
  };
  canvas.onpointerleave = () => {
    cursorSeen = pointers.size > 0;
    draw();
  };
  canvas.oncontextmenu = (event) => event.preventDefault();
  canvas.onfocus = () => {
    if (canvas.matches(":focus-visible")) cursorSeen = true;
    draw();
  };
  canvas.onblur = () => {
    if (!pointers.size) finish();
    cursorSeen = false;
    draw();
  };
  canvas.addEventListener("wheel", (event) => { // scrolls the notebook, unless the image has the focus
    if (!canvas.matches(":focus") && !event.ctrlKey) return;
    event.preventDefault();
    const pixels = event.deltaY * (event.deltaMode === 1 ? 16 : 1);
    zoomBy(Math.exp(-pixels * WHEEL * (event.ctrlKey ? 4 : 1)), ...place(event));
  }, { passive: false });

  // ---------------------------------------------------------------- keys

  const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  function arrow([down, right], byOne) {
    if (moving) return pan(-40 * right, -40 * down);
    const by = byOne ? 1 : Math.max(1, Math.round(8 / view.scale));
    const inside = (at, most) => Math.min(Math.max(Math.floor(at) + 0.5, 0.5), most - 0.5);
    cursor = [inside(cursor[0] + by * down, height), inside(cursor[1] + by * right, width)];
    cursorSeen = true;
    const [across, below] = seenSize();
    const [x, y] = [cursor[1] * view.scale + view.x, cursor[0] * view.scale + view.y];
    const outside = (at, most) => (at < 0 ? -at + most / 4 : at > most ? most * 0.75 - at : 0);
    if (outside(x, across) || outside(y, below)) pan(outside(x, across), outside(y, below));
    if (stroke) extend(cursor);
    draw();
  }
  function sizeBy(factor) {
    const now = model.get("brush_size");
    const next = factor > 1 ? Math.max(Math.round(now * factor), now + 1) : Math.round(now * factor);
    change("brush_size", Math.min(Math.max(next, 1), MOST_SIZE));
  }
  function opacityBy(step) {
    change("opacity", Math.round(Math.min(Math.max(model.get("opacity") + step, 0), 1) * 20) / 20);
  }
  const onCanvas = { // on the canvas alone: elsewhere these keys press buttons and move sliders
    " ": () => (stroke ? finish() : begin(cursor)),
    Enter: () => { if (stroke) finish(); else { begin(cursor); finish(); } },
    Escape: drop,
  };
  const anywhere = {
    0: () => change("active", 0), e: () => change("active", 0), z: () => act({ do: "undo" }),
    y: () => act({ do: "redo" }), l: () => toggle("labels"), k: () => toggle("strokes"),
    o: () => opacityBy(-0.1), p: () => opacityBy(0.1), "+": () => zoomBy(1.5), "=": () => zoomBy(1.5),
    "-": () => zoomBy(1 / 1.5), f: fit, m: () => setMoving(!moving),
    "[": () => sizeBy(1 / 1.25), "]": () => sizeBy(1.25),
  };
  root.addEventListener("keydown", (event) => {
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key; // whatever Caps Lock says
    let does;
    const typed = event.getModifierState("AltGraph"); // some keyboards have [ and ] there
    if (!typed && (event.ctrlKey || event.metaKey)) {
      if (key === "z" || key === "y") does = anywhere[event.shiftKey ? "y" : key];
    } else if (!typed && event.altKey) {
      return;
    } else if (event.target === canvas && ARROWS[key]) {
      does = () => arrow(ARROWS[key], event.shiftKey);
    } else if (event.target === canvas && onCanvas[key]) {
      does = event.repeat ? () => {} : onCanvas[key];
    } else if (/^[1-9]$/.test(key) && Number(key) <= model.get("classes").length) {
      does = () => change("active", Number(key));
    } else {
      does = anywhere[key];
    }
    if (!does) return;
    event.preventDefault();
    event.stopPropagation();
    does();
  });

  // ---------------------------------------------------------------- beginning and end

  for (const name of PICTURES) model.on(`change:${name}`, () => picturesChanged([name]));
  for (const name of ["active", "brush_size", "opacity", "extent", "_can_undo", "_can_redo"]) {
    model.on(`change:${name}`, showControls);
  }
  model.on("change:classes", () => { showClasses(); showControls(); });
  model.on("change:_status", () => { if (!sent) say(model.get("_status")); });
  model.on("change:_answered", answered);
  model.on("comm_live_update", disconnected); // Jupyter's event when a kernel is gone
  const observer = new ResizeObserver(() => requestAnimationFrame(resize));
  observer.observe(root);
  showClasses();
  picturesChanged(PICTURES);
  say(model.get("_status"));
  showControls();
  resize();
  return () => {
    observer.disconnect();
    clearTimeout(timer);
    clearTimeout(lookTimer);
    cancelAnimationFrame(frame);
  };
}

export default { render };
