// Has the server that the page came from do the work.

import { TEXTS } from "./texts.mjs";

const WAIT_SECONDS = 20;
const PROGRESS_SECONDS = 0.5;
const TOKEN = "anchorsr-token";

export class ServerEngine {
  /** At once: while one image is in the network, others are sent and read. */
  atOnce = 3;

  constructor(config) {
    this.config = config;
    // The token is in the part of the address that is not sent, and leaves the address bar.
    const given = new URLSearchParams(location.hash.slice(1)).get("token");
    if (given) {
      sessionStorage.setItem(TOKEN, given);
      history.replaceState(null, "", location.pathname);
    }
    this.token = sessionStorage.getItem(TOKEN);
  }

  /** Upscale a file: {blob, name, size, target}. onProgress takes a share, where it is known. */
  async upscale(file, options, { signal, onProgress }) {
    const isVideo = this.config.videos.some((suffix) => file.name.toLowerCase().endsWith(suffix));
    const notes = [];
    if (isVideo) {
      if (!options.factor) throw new Error(TEXTS.problems.videoSize);
      if (options.format) notes.push(TEXTS.notes.videoFormat);
      options = { model: options.model, factor: options.factor };
    }
    const query = new URLSearchParams({ name: file.name });
    for (const [name, value] of Object.entries(options)) if (value) query.set(name, value);
    const job = await this.#json(`api/jobs?${query}`, { method: "POST", body: file });
    try {
      signal.throwIfAborted(); // only now: the server may have had the whole file when it was cancelled
      const wait = isVideo ? PROGRESS_SECONDS : WAIT_SECONDS;
      let told = job;
      while (told.state !== "done" && told.state !== "failed") {
        told = await this.#json(`api/jobs/${job.id}?wait=${wait}`, { signal });
        if (told.progress !== undefined) onProgress(told.progress);
      }
      if (told.state === "failed") throw new Error(told.error);
      const answer = await this.#ask(`api/jobs/${job.id}/result`, { signal });
      const { name, size, target_size: target } = told.result;
      notes.push(...told.result.notes ?? []);
      return { blob: await answer.blob(), name, size, target, notes };
    } finally {
      this.#ask(`api/jobs/${job.id}`, { method: "DELETE" }).catch(() => {});
    }
  }

  async #json(address, request) {
    return (await this.#ask(address, request)).json();
  }

  async #ask(address, request) {
    const headers = this.token ? { authorization: `Bearer ${this.token}` } : {};
    let answer;
    try {
      answer = await fetch(address, { ...request, headers });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Error(TEXTS.problems.offline);
    }
    if (answer.status === 401) throw new Error(TEXTS.problems.token);
    if (!answer.ok) {
      const { error } = await answer.json().catch(() => ({ error: answer.statusText }));
      throw new Error(error);
    }
    return answer;
  }
}
