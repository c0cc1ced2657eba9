// The deferred jobs of a service: what each waits for, and until when.

import { make, setText, taskLink } from "./elements.js";
import { clockTime, count, duration, limitWords, words } from "./words.js";

export function makeDeferred(service) {
    const details = make("details", "keys-deferred");
    const summary = make("summary");
    const list = make("ul");
    list.setAttribute("aria-label", "Deferred jobs of " + service);
    details.append(summary, list);
    return { details: details, summary: summary, list: list, are: "", lefts: [] };
}

// A limit, such as rpm, by what it counts; any other reason as it is written.
function reasonWords(job) {
    const limit = /^(r|t|e|it|ot)p(s|m|d|mo)$/.test(job.code);
    const why = limit ? "limit reached: " + limitWords(job.code) : words(job.code);
    return !job.kind ? "reason not known" : job.kind === "failure" ? "a call failed (" + why + ")" : why;
}

export function showDeferred(its, queue, now_ms) {
    const jobs = queue.deferred_jobs;
    its.details.hidden = !jobs.length;
    if (!jobs.length) {
        return;
    }
    const reasons = Array.from(new Set(jobs.map(reasonWords)));
    setText(its.summary, "Deferred, until when and why: " + reasons.slice(0, 3).join("; ")
        + (reasons.length > 3 ? " …" : ""));
    const are = JSON.stringify([jobs, queue.deferred]);
    if (its.are !== are) {
        its.are = are;
        const items = jobs.map(function (job) {
            const item = make("li");
            const left = make("strong");
            left.title = clockTime(job.next_try_ms);
            item.append(left, " · " + reasonWords(job) + " · ", taskLink(job.id));
            return { item: item, left: left };
        });
        its.lefts = items.map(function (one) { return one.left; });
        its.list.replaceChildren.apply(its.list, items.map(function (one) { return one.item; }));
        if (queue.deferred > jobs.length) {
            its.list.append(make("li", "", "These are the first and the last of " + count(queue.deferred) + " to come back."));
        }
    }
    jobs.forEach(function (job, place) {
        const left_ms = job.next_try_ms - now_ms;
        setText(its.lefts[place], left_ms > 0 ? "next try in " + duration(left_ms) : "due");
    });
}
