// What the page asks of the server, and whether it answers. A plain script, there before any component: every question
// gets a number, which the server sends back when it has dealt with it (shell/asking.py). So a click is acknowledged at
// once, a control that waits says so, and a server that is frozen or gone does not go unnoticed.

window.Server = (() => {
  const FROZEN = 5000 // ms without an answer
  const BEAT = 10000 // ms of silence after which the server is asked whether it is there
  const LOOK = 500 // ms
  const AGAIN = [500, 1000, 2000, 5000] // ms between two looks for a server that is gone
  const CAME_BACK = "workbench-came-back", SETTLED = 10000 // ms within which a page that came back is not loaded again

  const open = new Map() // questions without an answer, the oldest first
  const told = new EventTarget() // "asked", "answered", "wrong"
  let count = 0, gestures = 0, heard = performance.now(), leaving = false, beat = () => {}

  const mark = (node, more) => {
    if (!node) return
    const waiting = Number(node.dataset.waiting ?? 0) + more
    if (waiting > 0) {
      node.dataset.waiting = waiting
      node.setAttribute("aria-busy", "true")
    } else {
      delete node.dataset.waiting
      node.removeAttribute("aria-busy")
    }
  }

  // `node` waits meanwhile; questions of one `gesture` (a drag, a word being typed) are one step of the history, those
  // without are none; `done` is called with the answer.
  const ask = (model, message, {node = null, gesture = null, done = () => {}, quiet = false} = {}) => {
    const question = ++count
    open.set(question, {node, gesture, done, quiet, since: performance.now()})
    mark(node, 1)
    told.dispatchEvent(new Event("asked"))
    model.send_msg({...message, question})
  }

  const answered = ({answer, wrong}) => {
    const asked = open.get(answer)
    if (!asked) return
    open.delete(answer)
    heard = performance.now()
    mark(asked.node, -1)
    asked.done()
    if (wrong) told.dispatchEvent(new CustomEvent("wrong", {detail: wrong}))
    told.dispatchEvent(new Event("answered"))
    look()
  }

  const show = (state, text = "") => {
    const root = document.documentElement, banner = document.getElementById("server")
    if (root.dataset.server !== state) root.dataset.server = state
    if (banner.firstElementChild.textContent !== text) banner.firstElementChild.textContent = text
    banner.hidden = !text
  }

  const look = () => {
    if (document.documentElement.dataset.server === "lost") return
    const oldest = open.values().next().value, now = performance.now()
    if (oldest && now - oldest.since > FROZEN) {
      const seconds = Math.round((now - oldest.since) / 1000)
      show("frozen", `The server has not answered for ${seconds} seconds. What is set here waits until it does.`)
    } else if (!oldest || now - oldest.since < LOOK) {
      show("there")
    }
    if (!oldest && now - heard > BEAT && document.visibilityState === "visible") beat()
  }

  // The page comes back by being loaded again: its address is the view that is shown, and the session may be gone.
  const lost = async () => {
    if (leaving || document.documentElement.dataset.server === "lost") return
    show("lost", "The server does not answer: the connection to it is lost. This view comes back as soon as it answers; "
      + "what is set until then is not kept.")
    const since = Date.now() - Number(sessionStorage.getItem(CAME_BACK) ?? 0)
    for (let look = 0; !(await there()); look++) await pause(AGAIN[Math.min(look, AGAIN.length - 1)])
    if (since < SETTLED) await pause(SETTLED - since) // it goes and comes: not all the time
    sessionStorage.setItem(CAME_BACK, Date.now())
    location.reload()
  }
  const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
  const there = async () => {
    try {
      return (await fetch(`${location.pathname.replace(/\/$/, "")}/metadata`, {cache: "no-store"})).ok
    } catch {
      return false
    }
  }

  addEventListener("pagehide", () => { leaving = true })
  setInterval(look, LOOK)

  return {
    ask, answered, lost, told,
    gesture: () => ++gestures,
    // The gesture whose question the server is dealing with: what it sends now comes of that one.
    current: () => open.values().next().value?.gesture ?? null,
    waiting: () => [...open.values()].some(({quiet}) => !quiet),
    beats: (how) => { beat = how },
  }
})()
