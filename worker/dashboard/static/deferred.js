// Shows the deferred jobs of a service: what each job waits for, and until when.

import { make, setText, taskLink } from "./elements.js";
import { setHidden, showEntries } from "./focus.js";
import { clockTime, count, duration, waitWords } from "./words.js";

const several_ms = 5000; // a wait that ends this long after the next try needs several tries

export function makeDeferred(service) {
    const details = make("details", "keys-deferred");
    const summary = make("summary");
    const list = make("ul");
    list.setAttribute("aria-label", "Deferred jobs of " + service);
    details.append(summary, list);
    return { details: details, summary: summary, list: list };
}

// Returns the expected end of a wait, if the job has several tries before it.
function endWords(job, now_ms) {
    return job.expected_end_ms === null || job.expected_end_ms - job.next_try_ms < several_ms ? ""
        : ", expected end in " + duration(job.expected_end_ms - now_ms);
}

// job: a deferred job, or a sentence about them
function makeItem(job) {
    if (typeof job === "string") {
        return make("li", "", job);
    }
    const item = make("li");
    const left = make("strong");
    left.title = clockTime(job.next_try_ms);
    item.append(left, " · " + waitWords(job) + " · ", taskLink(job.id));
    return item;
}

export function showDeferred(view, queue, now_ms) {
    const jobs = queue.deferred_jobs;
    setHidden(view.details, !jobs.length);
    if (!jobs.length) {
        return;
    }
    const reasons = Array.from(new Set(jobs.map(waitWords)));
    setText(view.summary, "Deferred jobs, until when and why: " + reasons.slice(0, 3).join("; ")
        + (reasons.length > 3 ? " …" : ""));
    const more = queue.deferred > jobs.length
        ? ["These jobs are the first and the last of " + count(queue.deferred) + " to come back."]
        : [];
    showEntries(view.list, jobs.concat(more), makeItem);
    jobs.forEach(function (job, index) {
        const left_ms = job.next_try_ms - now_ms;
        setText(
            view.list.children[index].firstChild,
            (left_ms > 0 ? "next try in " + duration(left_ms) : "due") + endWords(job, now_ms)
        );
    });
}
