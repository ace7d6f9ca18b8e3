// The tokens of a text in a row, with a button between any two words: pressed, a new phrase begins there.
// Arrow keys on a pressed one move it by a word. What the phrases are comes from Python; a press goes back as a message.

const make = (tag, attributes = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), attributes)
  element.append(...children)
  return element
}

export function render({model, el}) {
  const row = make("div", {className: "tree", role: "group", ariaLabel: "Where phrases begin"})
  let focus = null
  const ask = (node, message) => Server.ask(model, message, {node, gesture: Server.gesture()})

  const gap = (place) => {
    const on = model.splits.includes(place)
    const words = `${model.tokens[place - 1]} and ${model.tokens[place]}`
    const button = make("button", {
      type: "button", className: "gap", ariaPressed: String(on),
      title: on ? `Join ${words}` : `Split between ${words}`,
      ariaLabel: on ? `Join ${words}` : `Split between ${words}`,
    })
    button.dataset.place = place
    button.addEventListener("click", () => { focus = place; ask(button, {place}) })
    button.addEventListener("keydown", (event) => {
      const step = {ArrowLeft: -1, ArrowRight: 1}[event.key]
      if (!step || !on) return
      event.preventDefault()
      const to = model.places[model.places.indexOf(place) + step]
      if (to === undefined || model.splits.includes(to)) return
      focus = to
      ask(button, {place, to})
    })
    return button
  }

  const draw = () => {
    const parts = []
    let phrase = null
    const marker = (token) => make("span", {className: "token marker"}, token)
    model.tokens.forEach((token, place) => {
      const starts = place === 1 || model.splits.includes(place)
      if (place === 0 || place === model.tokens.length - 1) {
        parts.push(make("span", {className: "phrase alone"}, marker(token)))
        return
      }
      if (place > 1 && model.places.includes(place)) {
        if (starts) parts.push(gap(place))
        else phrase.append(gap(place))
      }
      if (starts) parts.push(phrase = make("span", {className: "phrase"}))
      const piece = token.startsWith("##")
      phrase.append(make("span", {className: piece ? "token piece" : "token"}, piece ? token.slice(2) : token))
    })
    row.replaceChildren(...parts)
    if (focus !== null) row.querySelector(`[data-place="${focus}"]`)?.focus({preventScroll: true})
    focus = null
  }

  draw()
  model.on(["tokens", "splits", "places"], draw)
  model.on("msg:custom", Server.answered)
  el.append(row)
}
