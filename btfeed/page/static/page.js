// Keeps the page up to date. The server renders it; whenever it has news, this script gets the page again and changes what
// differs, so that the focus, what is open and what is selected stay.
"use strict";
(() => {
  const RETRY_MS = 2000;
  const TIMEOUT_MS = 10000;
  const main = document.querySelector("main");
  const connection = document.getElementById("connection");
  const version = document.documentElement.dataset.version;
  let source = null;
  let streaming = false;
  let timer = 0;
  let busy = false;
  let again = false;
  let lostAt = null;
  let updates = 0;

  document.documentElement.classList.add("scripted");

  // Getting the page

  async function refresh() {
    if (busy) {
      again = true;
      return;
    }
    busy = true;
    try {
      const signal = AbortSignal.timeout(TIMEOUT_MS);
      const answer = await fetch(location.href, { cache: "no-store", headers: { Accept: "text/html" }, signal });
      if (answer.status === 401) {
        location.reload(); // shows the login form
        return;
      }
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      const next = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (next.documentElement.dataset.version !== version) {
        location.reload(); // another btfeed: its script and stylesheet may be others
        return;
      }
      document.title = next.title;
      morph(main, next.querySelector("main"));
      connected();
    } catch (error) {
      disconnected();
    } finally {
      busy = false;
      if (again) {
        again = false;
        refresh();
      }
    }
  }

  function listen() {
    clearTimeout(timer);
    if (source) source.close();
    source = new EventSource("/events");
    source.addEventListener("snapshot", refresh);
    source.onopen = () => {
      streaming = true;
    };
    source.onerror = () => {
      if (streaming) say("Connecting again…");
      streaming = false;
      source.close();
      timer = setTimeout(listen, RETRY_MS);
      refresh(); // tells why: no answer, a session that ended, or no room for another stream
    };
  }

  function connected() {
    lostAt = null;
    updates += 1;
    connection.dataset.updates = updates;
    document.documentElement.classList.remove("stale");
    say(streaming ? "Live" : `Updated every ${RETRY_MS / 1000} s`);
  }

  function disconnected() {
    if (lostAt) return;
    lostAt = new Date();
    document.documentElement.classList.add("stale");
    say(`No answer from btfeed since ${lostAt.toISOString().slice(11, 19)} UTC. Trying again…`);
  }

  function say(text) {
    if (connection.textContent !== text) connection.textContent = text;
  }

  // A page that nobody sees costs nothing.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      clearTimeout(timer);
      if (source) source.close();
      source = null;
    } else if (!source) {
      listen();
      refresh();
    }
  });

  // Changing what differs

  function morph(from, to) {
    if (from.nodeType !== Node.ELEMENT_NODE) {
      if (from.data !== to.data) from.data = to.data;
      return;
    }
    if (from.hasAttribute("data-keep")) return;
    attributes(from, to);
    const named = new Map();
    for (const child of from.children) if (child.id) named.set(child.id, child);
    let at = from.firstChild;
    for (const next of [...to.childNodes]) {
      const old = next.id ? named.get(next.id) : similar(at, next) ? at : null;
      if (!old) {
        from.insertBefore(document.importNode(next, true), at);
        continue;
      }
      if (old === at) at = at.nextSibling;
      else from.insertBefore(old, at);
      morph(old, next);
    }
    while (at) {
      const gone = at;
      at = at.nextSibling;
      if (!isRead(gone)) gone.remove();
    }
  }

  // A row whose details are open stays until they are closed, also if the server no longer shows it.
  function isRead(node) {
    return node.nodeName === "TR" && node.id && node.querySelector("details[open]");
  }

  function similar(one, other) {
    return one && !one.id && one.nodeName === other.nodeName;
  }

  function attributes(from, to) {
    for (const { name } of [...from.attributes]) if (!to.hasAttribute(name) && !mine(name)) from.removeAttribute(name);
    for (const { name, value } of to.attributes) {
      if (!mine(name) && from.getAttribute(name) !== value) from.setAttribute(name, value);
    }
  }

  // What the reader changes: what is open, what is typed, and what a click disabled.
  function mine(name) {
    return name === "open" || name === "value" || name === "disabled";
  }

  // Buttons

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("button[data-post]");
    if (!button) return;
    const output = document.getElementById(button.dataset.output);
    button.disabled = true;
    try {
      const answer = await fetch(button.dataset.post, {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: button.dataset.body,
      });
      output.textContent = outcome(answer, await answer.text());
    } catch (error) {
      output.textContent = "btfeed does not answer. Nothing may have been done: try again.";
    } finally {
      button.disabled = false;
      refresh();
    }
  });

  function outcome(answer, text) {
    if (!answer.ok) return text.trim() || `btfeed answered with status ${answer.status}.`;
    const { marked, left } = JSON.parse(text);
    const tried = marked === 1 ? "1 dead letter is tried again" : `${marked.toLocaleString("en")} dead letters are tried again`;
    const why = "no configured sink wants them, they are damaged, or they have no valid timestamp";
    return left ? `${tried}, ${left.toLocaleString("en")} can't be: ${why}.` : `${tried}.`;
  }

  listen();
})();
