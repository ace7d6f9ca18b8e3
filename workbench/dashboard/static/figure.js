// A figure in a document of its own. The whole of it comes as `drawing`, changes to it as messages; every state of it
// has a number, so that one that was lost on the way to a page that is still being built is noticed and asked for.

const NOT_YET = 10 // ms

const modelsOf = (document) => [...document._all_models.values()]
const crosshairOf = (plot) => plot.toolbar.tools.find((tool) => tool.type === "CrosshairTool")

// Figures with a tag in common show the same part, and the same place under the pointer.
const link = (plot) => {
  if (!plot.tags.length) return
  const others = () => [...Bokeh.index.roots].map((view) => view.model)
    .filter((other) => other !== plot && other.tags?.some((tag) => plot.tags.includes(tag)))
  for (const name of ["x_range", "y_range"]) {
    plot[name].change.connect(() => {
      const {start, end} = plot[name]
      for (const other of others()) other[name].setv({start, end})
    })
  }
  crosshairOf(plot)?.overlay.forEach((span, index) => {
    span.properties.location.change.connect(() => {
      for (const other of others()) {
        const follows = crosshairOf(other).overlay[index]
        if (!Object.is(follows.location, span.location)) follows.location = span.location
      }
    })
  })
}

export function render({model, el}) {
  let have = 0, shown = null, applying = false, gone = false
  let steps = Promise.resolve()
  const then = (step) => { steps = steps.then(() => gone ? null : step()).catch((error) => console.error(error)) }

  const remove = ({place, views, doc}) => {
    views.clear()
    Bokeh.documents.splice(Bokeh.documents.indexOf(doc), 1)
    place.remove()
  }

  const told = document.createElement("p")
  told.setAttribute("role", "status")
  el.append(told)
  const tell = () => { told.textContent = model.trouble }

  const draw = async () => {
    const {count, text} = model.drawing
    if (!text || count <= have) return
    while (!el.isConnected && !gone) await new Promise((resolve) => setTimeout(resolve, NOT_YET))
    if (gone) return
    const json = JSON.parse(text), place = document.createElement("div")
    el.append(place)
    const views = await Bokeh.embed.embed_item({doc: json, root_id: json.roots[0].id}, place)
    const plot = views.roots[0].model, before = shown
    shown = {place, views, doc: plot.document}
    have = count
    if (before) remove(before)
    if (gone) return remove(shown)
    link(plot)
    for (const source of modelsOf(shown.doc).filter(({tags}) => tags?.includes("picked"))) {
      source.selected.properties.indices.change.connect(() => {
        if (!applying) Server.ask(model, {picked: source.selected.indices}, {gesture: Server.gesture()})
      })
    }
    document.dispatchEvent(new Event("drawn"))
  }

  const change = ({count, patch}) => {
    if (count === have + 1) {
      applying = true
      shown.doc.apply_json_patch(JSON.parse(patch))
      applying = false
      have = count
    } else if (count > have) {
      model.send_msg({have})
    }
  }

  model.on("drawing", () => then(draw))
  model.on("trouble", tell)
  model.on("msg:custom", (message) => message.patch ? then(() => change(message)) : Server.answered(message))
  model.on("remove", () => {
    gone = true
    if (shown) remove(shown)
  })
  tell()
  then(draw)
  then(() => model.send_msg({have}))
}
