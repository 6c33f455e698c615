// The theme searches in a worker, which browsers do not start from a file. On a page that
// was opened from disk, what the worker would run runs in a hidden frame of the page.
// The theme looks for the name `IFrameWorker`, and MkDocs for that of this file.
class IFrameWorker extends EventTarget {
  constructor(url) {
    super()
    const frame = document.createElement("iframe")
    frame.hidden = true
    this.scope = new Promise((resolve) => {
      frame.addEventListener("load", () => {
        const scope = frame.contentWindow
        scope.postMessage = (data) =>
          this.dispatchEvent(new MessageEvent("message", { data }))
        const script = scope.document.createElement("script")
        script.src = url
        script.addEventListener("load", () => resolve(scope))
        scope.document.head.append(script)
      }, { once: true })
    })
    document.body.append(frame)
  }

  postMessage(data) {
    this.scope.then((scope) =>
      scope.dispatchEvent(new MessageEvent("message", { data })))
  }
}

if (location.protocol === "file:") {
  window.IFrameWorker = window.Worker = IFrameWorker
}
