// The deferred jobs of a service: what each of them waits for, and until when.

import { make, setText, taskLink } from "./elements.js";
import { clockTime, count, duration, waitWords } from "./words.js";

const several_ms = 5000; // a wait that ends this long after the next try needs several tries

export function makeDeferred(service) {
    const details = make("details", "keys-deferred");
    const summary = make("summary");
    const list = make("ul");
    list.setAttribute("aria-label", "Deferred jobs of " + service);
    details.append(summary, list);
    return { details: details, summary: summary, list: list, listed: "", lefts: [] };
}

// The expected end of a wait, where several tries come before it.
function endWords(job, now_ms) {
    return job.expected_end_ms === null || job.expected_end_ms - job.next_try_ms < several_ms ? ""
        : ", expected end in " + duration(job.expected_end_ms - now_ms);
}

export function showDeferred(its, queue, now_ms) {
    const jobs = queue.deferred_jobs;
    its.details.hidden = !jobs.length;
    if (!jobs.length) {
        return;
    }
    const reasons = Array.from(new Set(jobs.map(waitWords)));
    setText(its.summary, "Deferred jobs, until when and why: " + reasons.slice(0, 3).join("; ")
        + (reasons.length > 3 ? " …" : ""));
    const listed = JSON.stringify([jobs, queue.deferred]);
    if (its.listed !== listed) {
        its.listed = listed;
        const items = jobs.map(function (job) {
            const item = make("li");
            const left = make("strong");
            left.title = clockTime(job.next_try_ms);
            item.append(left, " · " + waitWords(job) + " · ", taskLink(job.id));
            return { item: item, left: left };
        });
        its.lefts = items.map(function (one) { return one.left; });
        its.list.replaceChildren.apply(its.list, items.map(function (one) { return one.item; }));
        if (queue.deferred > jobs.length) {
            its.list.append(
                make(
                    "li",
                    "",
                    "These jobs are the first and the last of "
                        + count(queue.deferred)
                        + " to come back."
                )
            );
        }
    }
    jobs.forEach(function (job, index) {
        const left_ms = job.next_try_ms - now_ms;
        setText(
            its.lefts[index],
            (left_ms > 0 ? "next try in " + duration(left_ms) : "due") + endWords(job, now_ms)
        );
    });
}
