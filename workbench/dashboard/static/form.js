// A form of native controls. What it holds comes from Python as `fields`; what somebody chooses goes back as messages.
// A control that did not change is left alone: nothing jumps, and the focus stays where it is.

const PAUSE = 80 // ms between two reports while somebody drags
const TYPING = 450 // ms of silence after which typed text counts
const GUARD = 600 // ms in which a second click on a button that became another one by the first was meant for that one
const PAUSED = 1000 // ms after which a key that moves a slider begins another step of the history

const make = (tag, attributes = {}, ...children) => {
  const element = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) {
    if (name in element && name !== "list") element[name] = value
    else element.setAttribute(name, value)
  }
  element.append(...children)
  return element
}

let count = 0

const throttled = (send) => {
  let last = 0, timer = null
  const report = (...given) => {
    clearTimeout(timer)
    const wait = Math.max(0, last + PAUSE - performance.now())
    timer = setTimeout(() => { timer = null; last = performance.now(); send(...given) }, wait)
  }
  return {report, pending: () => timer !== null}
}

const reasons = (options) => {
  const barred = options.filter((option) => option.why)
  if (!barred.length) return []
  const lines = [...new Set(barred.map((option) => option.why))].map((why) => {
    const names = barred.filter((option) => option.why === why).map((option) => option.label)
    return make("li", {}, make("b", {}, names.join(", ")), ": " + why)
  })
  return [make("details", {className: "why"}, make("summary", {}, `${barred.length} greyed out: why?`), make("ul", {}, ...lines))]
}

const makers = {
  choice(field, id, send) {
    const select = make("select", {id, disabled: !field.options.some((option) => !option.why)})
    for (const {value, label, why} of field.options) {
      select.append(make("option", {value, disabled: Boolean(why), title: why}, label))
    }
    select.addEventListener("change", () => send(select.value))
    const node = make("div", {className: "field"}, make("label", {htmlFor: id}, field.label), select, ...reasons(field.options))
    return {node, set: (value) => { select.value = value }}
  },

  many(field, id, send) {
    const boxes = new Map()
    const box = make("fieldset", {className: "field many"}, make("legend", {}, field.label))
    for (const {value, label, why} of field.options) {
      const input = make("input", {type: "checkbox", value, disabled: Boolean(why)})
      input.addEventListener("change", () => send([...boxes].filter(([, each]) => each.checked).map(([name]) => name)))
      boxes.set(value, input)
      box.append(make("label", {className: why ? "barred" : "", title: why}, input, make("span", {}, label)))
    }
    box.append(...reasons(field.options))
    return {node: box, set: (values) => boxes.forEach((input, name) => { input.checked = values.includes(name) })}
  },

  slider(field, id, send) {
    const {report, pending} = throttled(send)
    const output = make("output", {htmlFor: id})
    const input = make("input", {id, type: "range", min: 0, max: field.stops.length - 1, step: 1, disabled: field.stops.length < 2})
    const show = () => {
      output.value = field.stops[input.valueAsNumber]
      input.setAttribute("aria-valuetext", output.value)
      input.style.setProperty("--at", `${100 * input.valueAsNumber / Math.max(1, field.stops.length - 1)}%`)
    }
    let held = false, gesture = null, moved = 0
    input.addEventListener("pointerdown", () => { held = true; gesture = Server.gesture() })
    for (const end of ["pointerup", "pointercancel", "blur"]) input.addEventListener(end, () => { held = false })
    input.addEventListener("input", () => {
      if (!held && performance.now() - moved > PAUSED) gesture = Server.gesture()
      moved = performance.now()
      show()
      report(input.valueAsNumber, gesture)
    })
    const node = make("div", {className: "field"}, make("label", {htmlFor: id}, field.label + " ", output), input)
    return {node, set: (value) => { if (!held && !pending()) { input.value = value; show() } }}
  },

  flag(field, id, send) {
    const input = make("input", {id, type: "checkbox", role: "switch"})
    input.addEventListener("change", () => send(input.checked))
    const node = make("div", {className: "field flag"}, input, make("label", {htmlFor: id}, field.label))
    return {node, set: (value) => { input.checked = value }}
  },

  text(field, id, send) {
    const lines = field.kind === "lines"
    const input = make(lines ? "textarea" : "input", {id, spellcheck: false, autocomplete: "off"})
    if (lines) input.rows = 4
    let timer = null, sent = null, told = null, gesture = null
    const report = () => { clearTimeout(timer); if (input.value !== sent) { sent = input.value; send(sent, gesture) } }
    // What was refused stays while somebody is at it, and gives way to what is shown when they leave.
    const settle = () => { if (!input.matches(":focus") && !node.dataset.waiting) input.value = sent = told }
    input.addEventListener("focus", () => { gesture = Server.gesture() })
    input.addEventListener("blur", settle)
    input.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(report, TYPING) })
    input.addEventListener("change", report)
    const node = make("div", {className: "field wide"}, make("label", {htmlFor: id}, field.label), input)
    const set = (value) => {
      told = value
      if (value !== sent || !input.matches(":focus")) input.value = sent = value
    }
    return {node, set, settle}
  },

  button(field, id, send) {
    // A refused button can be reached and pressed like any other: then it says why.
    const input = make("button", {id, type: "button", className: field.value, title: field.why}, field.label)
    const node = make("div", {className: "field push"}, input)
    if (field.why) {
      input.setAttribute("aria-disabled", "true")
      input.setAttribute("aria-describedby", `${id}-why`)
      node.append(make("p", {className: "help", id: `${id}-why`}, field.why))
    }
    input.addEventListener("click", () => { if (!node.dataset.waiting) send(field.sends) })
    return {node, set() {}}
  },
}
makers.lines = makers.text

export function render({model, el}) {
  const form = make("form", {className: model.look, noValidate: true})
  form.addEventListener("submit", (event) => event.preventDefault())
  if (model.legend) form.setAttribute("aria-label", model.legend)
  const drawn = new Map()
  const closed = new Set(model.folded)

  const pressed = new Map()
  const doubled = ({name, sends}) => {
    const {at, sent} = pressed.get(name) ?? {}
    if (sent !== sends && performance.now() - at < GUARD) return true
    pressed.set(name, {at: performance.now(), sent: sends})
    return false
  }

  // What was refused is not shown as if it were chosen.
  const settle = (control) => {
    const field = model.fields.find(({name}) => name === control.node.dataset.name)
    if (control !== drawn.get(field?.name) || control.node.dataset.waiting) return
    if (control.settle) control.settle()
    else control.set(field.value)
  }

  const refocus = (id) => {
    const node = id && form.querySelector(`#${id}`)
    if (node && node !== form.getRootNode().activeElement) node.focus({preventScroll: true})
  }

  let placed = ""
  const draw = () => {
    const focused = form.getRootNode().activeElement?.id
    const names = new Set(model.fields.map((field) => field.name))
    for (const name of [...drawn.keys()]) if (!names.has(name)) drawn.delete(name)
    // A control that is taken out and put back loses the pointer that drags it: where the same controls stand in the same
    // order, only those that changed are replaced.
    const layout = JSON.stringify(model.fields.map(({name, group}) => [group, name]))
    const same = layout === placed
    placed = layout
    const groups = []
    for (const field of model.fields) {
      const {value, ...rest} = field
      const signature = JSON.stringify(rest)
      let control = drawn.get(field.name)
      if (!control || control.signature !== signature) {
        const id = control?.id ?? `control-${count++}`
        const before = control
        control = makers[field.kind](field, id, (value, gesture = Server.gesture()) => {
          if (field.kind === "button" && doubled(field)) return
          Server.ask(model, {name: field.name, value}, {node: mine.node, gesture, done: () => settle(mine)})
        })
        const mine = control
        if (same) before.node.replaceWith(control.node)
        Object.assign(control, {signature, id})
        control.node.dataset.name = field.name
        if (field.help) {
          const help = make("p", {className: "help", id: `${id}-help`}, field.help)
          control.node.append(help)
          control.node.title = field.help
          control.node.querySelector(`#${id}`)?.setAttribute("aria-describedby", help.id)
        }
        drawn.set(field.name, control)
      }
      control.set(value)
      if (!groups.length || groups.at(-1).name !== field.group) groups.push({name: field.group, nodes: []})
      groups.at(-1).nodes.push(control.node)
    }
    if (same) return refocus(focused)
    const parts = groups.map(({name, nodes}) => {
      if (!name) return make("div", {className: "group"}, ...nodes)
      const folded = make("details", {className: "knobs", open: !closed.has(name)}, make("summary", {}, name), make("div", {className: "group"}, ...nodes))
      folded.addEventListener("toggle", () => folded.open ? closed.delete(name) : closed.add(name))
      return folded
    })
    if (model.badge) parts.unshift(make("span", {className: `badge ${model.badge}`, ariaHidden: "true"}, model.badge))
    form.replaceChildren(...parts)
    refocus(focused)
  }

  draw()
  model.on("fields", draw)
  model.on("msg:custom", Server.answered)
  el.append(form)
}
