// The theme searches in a worker, which browsers start for no page that lies on the disk. There, a
// hidden frame runs the worker's program.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(program) {
      super();
      this.onmessage = null;
      this.onerror = null;
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      this.frame.srcdoc = "<body></body>";
      this.started = new Promise((started) => {
        this.frame.onload = () => {
          const inside = this.frame.contentWindow;
          const load = (address) =>
            new Promise((loaded, failed) => {
              const script = inside.document.createElement("script");
              script.src = new URL(address, document.baseURI).href;
              script.onload = loaded;
              script.onerror = failed;
              inside.document.body.append(script);
            });
          inside.importScripts = (...addresses) =>
            addresses.reduce((before, address) => before.then(() => load(address)), Promise.resolve());
          inside.postMessage = (data) => this.hand(this, data);
          load(program).then(() => started(inside), (error) => this.onerror?.(error));
        };
      });
      document.documentElement.append(this.frame);
    }

    hand(target, data) {
      const event = new MessageEvent("message", { data });
      target.dispatchEvent(event);
      target.onmessage?.(event);
    }

    postMessage(data) {
      this.started.then((inside) => {
        const event = new inside.MessageEvent("message", { data });
        inside.dispatchEvent(event); // calls its onmessage, too
      });
    }

    terminate() {
      this.frame.remove();
    }
  };
}
