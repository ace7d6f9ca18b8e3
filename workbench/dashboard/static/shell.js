// The frame around the pages: links without reload, theme, copy link, saving, messages, and what the device is doing.
// The frame itself is plain HTML in the page (index.html), there before anything else is loaded.

const find = (id) => document.getElementById(id)

const inside = function* (view) {
  yield view
  for (const child of view.children_views?.() ?? []) yield* inside(child)
}

const plots = function* () {
  for (const root of Object.values(Bokeh.index.roots ?? Bokeh.index)) {
    for (const view of inside(root)) if (view.canvas_view) yield view
  }
}

const save = (name, content) => {
  const link = document.createElement("a")
  link.href = URL.createObjectURL(content)
  link.download = name
  link.click()
  setTimeout(() => URL.revokeObjectURL(link.href), 1000)
}

// Every figure of the page in one picture, placed as on the screen.
const picture = (name) => {
  const seen = [...plots()].map((view) => ({view, box: view.el.getBoundingClientRect()})).filter(({box}) => box.width > 0)
  if (!seen.length) return
  const left = Math.min(...seen.map(({box}) => box.left)), top = Math.min(...seen.map(({box}) => box.top))
  const right = Math.max(...seen.map(({box}) => box.right)), bottom = Math.max(...seen.map(({box}) => box.bottom))
  const scale = 2, paper = document.createElement("canvas")
  paper.width = (right - left) * scale
  paper.height = (bottom - top) * scale
  const ink = paper.getContext("2d")
  ink.fillStyle = getComputedStyle(document.body).backgroundColor
  ink.fillRect(0, 0, paper.width, paper.height)
  for (const {view, box} of seen) {
    ink.drawImage(view.export("png", true).canvas, (box.left - left) * scale, (box.top - top) * scale, box.width * scale, box.height * scale)
  }
  paper.toBlob((blob) => save(name, blob))
}

const copy = async (text) => {
  try {
    await navigator.clipboard.writeText(text)
    return true
  } catch { // no permission, or not a secure context
    const area = document.createElement("textarea")
    area.value = text
    document.body.append(area)
    area.select()
    const done = document.execCommand("copy")
    area.remove()
    return done
  }
}

export function render({model, el}) {
  el.hidden = true
  // Every message stays until it is dismissed or outdated; those that are there are left alone, for they were read.
  const tell = () => {
    const there = new Map([...find("messages").children].map((node) => [node.dataset.text, node]))
    const texts = [...new Set([...model.messages, ...wrong])]
    find("messages").replaceChildren(...texts.map((text) => there.get(text) ?? message(text)))
  }
  let wrong = [] // what was said about the last click alone
  const message = (text) => {
    const node = document.createElement("div"), words = document.createElement("p"), close = document.createElement("button")
    node.className = "message"
    node.dataset.text = words.textContent = text
    close.type = "button"
    close.textContent = "Dismiss"
    close.addEventListener("click", () => { wrong = wrong.filter((each) => each !== text); node.remove(); Server.ask(model, {kind: "heard", text}) })
    node.append(words, close)
    return node
  }
  const hint = (text) => {
    find("hint").textContent = text
    setTimeout(() => { if (find("hint").textContent === text) find("hint").textContent = "" }, 2500)
  }
  const go = (search) => Server.ask(model, {kind: "go", search}, {done: () => history.replaceState({}, "", model.search)})
  const own = new AbortController() // when the component is removed its listeners go with it
  const listen = (target, type, handler) => target.addEventListener(type, handler, {signal: own.signal})

  listen(document, "click", (event) => {
    const link = event.composedPath().find((node) => node.tagName === "A" && node.getAttribute("href")?.startsWith("?"))
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return
    event.preventDefault()
    history.pushState({}, "", link.getAttribute("href"))
    mark(new URLSearchParams(location.search).get("page"))
    go(location.search)
    scrollTo(0, 0)
  })
  listen(window, "popstate", () => { step = null; go(location.search) })

  const mark = (page) => {
    for (const link of document.querySelectorAll("#nav a")) {
      if (link.dataset.page === page) link.setAttribute("aria-current", "page")
      else link.removeAttribute("aria-current")
    }
  }
  // Custom properties reach all of a figure but its colour bar: that one is told.
  const ink = () => {
    const color = getComputedStyle(document.documentElement).getPropertyValue("--muted").trim()
    for (const model of Bokeh.documents.flatMap((each) => [...each._all_models.values()])) {
      if (model.type === "ColorBar" && model.major_label_text_color !== color) {
        model.setv({major_label_text_color: color, title_text_color: color})
      }
    }
  }
  const repaint = () => {
    ink()
     for (const view of plots()) { view.invalidate_painters?.(); view.request_paint?.() ?? view.request_repaint?.("everything") } }
  listen(find("theme"), "click", () => {
    const dark = document.documentElement.dataset.theme !== "dark"
    document.documentElement.dataset.theme = dark ? "dark" : "light"
    localStorage.setItem("workbench-theme", document.documentElement.dataset.theme)
    repaint()
  })
  listen(document, "drawn", ink)
  listen(find("copy-link"), "click", async () => hint(await copy(location.href) ? "Link copied." : "Copy the address bar."))
  listen(find("save-png"), "click", () => picture(`workbench-${model.page}.png`))
  listen(find("save-csv"), "click", () => Server.ask(model, {kind: "csv"}))
  listen(find("show-lines"), "click", () => Server.ask(model, {kind: "lines"}))
  listen(find("lines-close"), "click", () => find("lines").close())
  listen(find("lines-copy"), "click", async () => {
    find("lines-copy").textContent = await copy(find("lines-text").textContent) ? "Copied" : "Select and copy"
  })
  listen(find("cancel"), "click", () => {
    find("cancel").disabled = true
    Server.ask(model, {kind: "cancel"})
  })

  const status = () => {
    ink()
    const {text, busy, part} = model.status
    find("status").textContent = text
    find("job").dataset.busy = busy || Server.waiting() ? "yes" : "no"
    find("cancel").hidden = !busy
    find("cancel").disabled = false
    const bar = find("progress")
    bar.hidden = !busy
    if (part == null) bar.removeAttribute("value")
    else bar.value = part
  }
  model.on("status", status)
  model.on("messages", tell)
  model.on("page", () => mark(model.page))
  // The address bar holds what is shown: also where the link that was opened asked for something else. What somebody
  // set is a step of the history; all that one gesture sets is one.
  let step = null
  const address = () => {
    if (!model.search || model.search === location.search) return
    const gesture = Server.current()
    if (gesture === null || gesture === step) history.replaceState({}, "", model.search)
    else history.pushState({}, "", model.search)
    step = gesture ?? step
  }
  model.on("search", address)
  listen(Server.told, "asked", () => {
    if (!Server.waiting()) return
    find("job").dataset.busy = "yes"
    if (wrong.length) { wrong = []; tell() }
  })
  listen(Server.told, "answered", () => { find("job").dataset.busy = model.status.busy || Server.waiting() ? "yes" : "no" })
  listen(Server.told, "wrong", ({detail}) => { wrong = [detail]; tell() })
  Server.beats(() => Server.ask(model, {kind: "there"}, {quiet: true}))
  for (const each of Bokeh.documents) each.on_event("connection_lost", Server.lost)
  model.on("msg:custom", (sent) => {
    const {kind, name, text} = sent
    Server.answered(sent)
    if (kind === "save") save(name, new Blob([text], {type: "text/csv;charset=utf-8"}))
    if (kind === "lines") {
      find("lines-text").textContent = text
      find("lines-copy").textContent = "Copy"
      find("lines").showModal()
    }
  })
  model.on("remove", () => own.abort())

  address()
  status()
  tell()
  mark(model.page)
  document.documentElement.dataset.ready = "yes"
}
