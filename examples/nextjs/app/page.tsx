"use client";

import { type FormEvent, useState } from "react";

export default function Page() {
  const [status, setStatus] = useState("");
  const [answer, setAnswer] = useState("");

  async function ask(submitted: FormEvent<HTMLFormElement>) {
    submitted.preventDefault();
    const prompt = new FormData(submitted.currentTarget).get("prompt");
    setAnswer("");
    setStatus("Asking …");
    const asked = await fetch("/completions", { method: "POST", body: JSON.stringify({ prompt }) }).catch(() => null);
    if (!asked?.ok) {
      setStatus(asked?.status === 503 ? "Busy, please try again soon." : "That did not work.");
      return;
    }
    setStatus("Waiting …");
    // It connects again by itself, and goes on where it was.
    const source = new EventSource((await asked.json()).events);
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
