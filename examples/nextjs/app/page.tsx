"use client";

import { type FormEvent, useRef, useState } from "react";

export default function Page() {
  const [status, setStatus] = useState("");
  const [answer, setAnswer] = useState("");
  const stream = useRef<EventSource | null>(null);
  const asking = useRef(0); // a later question takes the place of an earlier one

  async function ask(submitted: FormEvent<HTMLFormElement>) {
    submitted.preventDefault();
    const prompt = new FormData(submitted.currentTarget).get("prompt");
    const mine = (asking.current += 1);
    stream.current?.close();
    setAnswer("");
    setStatus("Asking …");
    const accepted = await fetch("/completions", { method: "POST", body: JSON.stringify({ prompt }) }).catch(() => null);
    if (mine !== asking.current) return;
    if (!accepted?.ok) {
      setStatus(accepted?.status === 503 ? "Busy, please try again soon." : "That did not work.");
      return;
    }
    const { events } = await accepted.json();
    if (mine !== asking.current) return;
    setStatus("Waiting …");
    // After a broken connection, the source reconnects and continues after the last event.
    const source = (stream.current = new EventSource(events));
    const on = (type: string, act: (data: any) => void) =>
      source.addEventListener(type, (event) => act(JSON.parse(event.data)));
    const begin = () => {
      setAnswer("");
      setStatus("Answering …");
    };
    const end = (text: string) => {
      setStatus(text);
      source.close();
    };
    on("start", begin);
    on("restart", begin);
    on("delta", ({ text }) => setAnswer((so) => so + text));
    on("wait", ({ nextTry }) =>
      setStatus(`Busy, please wait. Next try at ${new Date(nextTry).toLocaleTimeString()}.`),
    );
    on("end", () => end("Done."));
    on("failed", ({ reason }) => end(`Failed: ${reason}`));
    source.addEventListener("error", () => {
      // The browser gives up after an answer such as 503, so the page must not look as if it still waited.
      if (source.readyState === EventSource.CLOSED) end("The answer cannot be followed. Please ask again.");
    });
  }

  return (
    <main>
      <h1>Ask</h1>
      <form onSubmit={ask}>
        <label htmlFor="prompt">Your question</label>
        <textarea id="prompt" name="prompt" required maxLength={20000} defaultValue="Say hello" />
        <button>Ask</button>
      </form>
      <p role="status">{status}</p>
      <div id="answer" style={{ whiteSpace: "pre-wrap", overflowWrap: "anywhere" }}>{answer}</div>
    </main>
  );
}
