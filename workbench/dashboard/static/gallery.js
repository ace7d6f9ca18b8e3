// Small grey images to choose one from. `images.pixels` holds all of them, one byte a pixel, as base64.

export function render({model, el}) {
  const box = document.createElement("div")
  box.className = "gallery"
  box.setAttribute("role", "group")

  const draw = () => {
    box.setAttribute("aria-label", model.legend)
    const {pixels, size, labels} = model.images
    const bytes = Uint8Array.from(atob(pixels), (letter) => letter.charCodeAt(0))
    const count = size ** 2
    box.replaceChildren(...labels.map((label, index) => {
      const canvas = document.createElement("canvas")
      canvas.width = canvas.height = size
      const context = canvas.getContext("2d")
      const picture = context.createImageData(size, size)
      for (let pixel = 0; pixel < count; pixel++) {
        picture.data.fill(bytes[index * count + pixel], 4 * pixel, 4 * pixel + 3)
        picture.data[4 * pixel + 3] = 255
      }
      context.putImageData(picture, 0, 0)
      const button = document.createElement("button")
      button.type = "button"
      button.title = label
      button.setAttribute("aria-label", label)
      button.append(canvas)
      button.addEventListener("click", () => Server.ask(model, {index}, {node: button, gesture: Server.gesture()}))
      return button
    }))
    mark()
  }
  const mark = () => [...box.children].forEach((button, index) => {
    button.setAttribute("aria-pressed", String(index === model.chosen))
  })

  draw()
  model.on("images", draw)
  model.on("chosen", mark)
  model.on("msg:custom", Server.answered)
  el.append(box)
}
