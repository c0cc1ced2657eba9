// Shows one job: where it is, when it will be served, and what has happened so far.

import { make, page, readOnly, setText } from "./elements.js";
import { setHidden, showEntries, whileBusy } from "./focus.js";
import { post, request } from "./server.js";
import {
    clock,
    clockTime,
    count,
    duration,
    limitWords,
    plural,
    waitWords,
    words,
} from "./words.js";

const interval_ms = 2000;
// The interval if the job has ended, because it may be replayed, or if it is not near the front.
const slow_interval_ms = 15000;
const far = 1000; // the last place that counts as near
const eventWords = {
    sent: "sent by its producer",
    received: "fetched by a worker",
    started: "started by a worker",
    retried: "went back to its queue, to wait",
    succeeded: "succeeded",
    failed: "failed",
    revoked: "cancelled",
    rejected: "its message was rejected",
};
const helpWords = {
    "no key": " No key can serve it until a person brings one back.",
    paused: " The service is paused until a person resumes it.",
};
const endWords = { SUCCESS: "It succeeded", FAILURE: "It failed", REVOKED: "It was cancelled" };
const id = page.dataset.job;
const freshness = document.getElementById("job-freshness");
const now = document.getElementById("job-now");
const cancel = document.getElementById("job-cancel");
let latest = null;
let answeredAt = 0;
let ahead_ms = 0; // by how much the server's clock is ahead of this one
let ended = false; // whether another request would only get the same answer
let outcome = ""; // the outcome of the cancel button

function address(template) {
    return template.replace("TASK", encodeURIComponent(id));
}

// Returns the server's time, because this computer's clock may be wrong.
function now_ms() {
    return Date.now() + ahead_ms;
}

function until(at_ms) {
    return clock(at_ms - now_ms());
}

function startWords(job) {
    if (job.expected_start_ms === null) {
        return helpWords[job.limited_by] || "";
    }
    const limited = job.limited_by ? " Limited by: " + limitWords(words(job.limited_by)) + "." : "";
    return job.start_by_ms - now_ms() < 1000
        ? " It is about to be served."
        : " It is expected to be served in "
              + until(job.expected_start_ms)
              + ", in nine of ten cases within "
              + until(job.start_by_ms)
              + "."
              + limited;
}

// Returns whether the job may not exist: no worker has had it, and it was not found in its queue.
function isUnknown(job) {
    return job.where === "queue" && job.place === null && !job.events.length;
}

function stateWords(job) {
    if (job.where === "ended") {
        return (
            (endWords[job.state] || "It ended: " + job.state)
            + (job.error ? ": " + job.error : "")
            + (job.key ? ", with the key " + job.key : "")
            + (/\.$/.test(job.key || job.error) ? "" : ".")
        );
    }
    if (job.where === "running") {
        return "It runs now.";
    }
    if (job.where === "deferred" && job.waits) {
        const left = job.waits.next_try_ms === null ? "" : job.waits.next_try_ms > now_ms()
            ? " Next try in " + until(job.waits.next_try_ms) + "." : " Its next try is due.";
        const end =
            job.waits.expected_end_ms !== null && job.waits.expected_end_ms > job.waits.next_try_ms
                ? " It is expected to be served in " + until(job.waits.expected_end_ms) + "."
                : "";
        return "It waits: " + waitWords(job.waits) + "." + left + end;
    }
    const soon = startWords(job);
    return job.where === "worker" ? "A worker has fetched it, and it waits there for a key." + soon
        : job.place !== null ? "It is number " + count(job.place) + " in its queue." + soon
            : isUnknown(job) ? "It waits in its queue, or no job has this id."
                : "It waits in its queue." + soon;
}

function showFacts(job) {
    const facts = {
        State: job.state,
        Task: job.task || "not known",
        Worker: job.worker || "none yet",
    };
    const is_complete = job.attempts !== null || job.where === "deferred" || job.dead_letter;
    if (job.calls.length || is_complete) { // otherwise the calls are not known
        facts.Calls =
            plural(job.attempts === null ? job.calls.length : job.attempts, "call")
            + (job.attempts === null && (!is_complete || job.calls.length === 20)
                ? " or more"
                : "");
    }
    if (job.dead_letter) {
        facts["Dead letter"] =
            job.dead_letter + (readOnly ? ": show it" : ": show it, to replay or drop it");
    }
    showEntries(document.getElementById("job-facts"), Object.entries(facts), function (pair) {
        const group = make("div");
        const value = make("dd", "", pair[1]);
        if (pair[0] === "Dead letter") {
            const link = make("a", "", pair[1]);
            link.href =
                page.dataset.keysUrl
                + "?"
                + new URLSearchParams({ search: id })
                + "#letters-title";
            value.replaceChildren(link);
        }
        group.append(make("dt", "", pair[0]), value);
        return group;
    });
}

// Shows the job's events and calls on one time line, the earliest first.
function showLine(job) {
    const points = job.events.map(function (event) {
        return { at_ms: event.at_ms, kind: event.event, text: eventWords[event.event] };
    }).concat(job.calls.map(function (call) {
        return { at_ms: call.at_ms, kind: call.code === "ok" ? "accepted" : "call",
            text: "call with " + call.key + ": " + words(call.code)
                + (call.in_doubt ? " (may have been carried out)" : "") };
    })).sort(function (first, second) { return first.at_ms - second.at_ms; });
    points.forEach(function (point, index) {
        point.since_ms = index ? point.at_ms - points[index - 1].at_ms : 0;
    });
    document.getElementById("job-none").hidden = points.length > 0;
    showEntries(document.getElementById("job-line"), points, function (point) {
        const item = make("li", "job-point");
        item.dataset.kind = point.kind;
        item.append(make("time", "", clockTime(point.at_ms)), make("span", "", point.text),
            make("small", "job-since",
                point.since_ms >= 1000 ? duration(point.since_ms) + " later" : ""));
        return item;
    });
}

function show() {
    if (!latest) {
        return;
    }
    setText(now, stateWords(latest));
    now.dataset.where = latest.where === "ended" ? latest.state : latest.where;
    const title =
        (latest.where === "ended"
            ? latest.state.toLowerCase()
            : latest.where === "deferred" && latest.waits && latest.waits.next_try_ms !== null
              ? "next try in " + until(latest.waits.next_try_ms)
              : latest.where === "running"
                ? "runs"
                : isUnknown(latest)
                  ? "not known"
                  : "waits")
        + " · job "
        + id.slice(0, 8);
    if (document.title !== title) {
        document.title = title;
    }
}

async function look() {
    try {
        latest = await request(address(page.dataset.jobUrl));
        answeredAt = latest.now_ms;
        ahead_ms = answeredAt - Date.now();
        showFacts(latest);
        showLine(latest);
        show();
        if (cancel) {
            setHidden(cancel, latest.where === "ended");
        }
        setText(freshness, "State at " + clockTime(answeredAt) + "." + outcome);
    } catch (error) {
        ended = [401, 404].includes(error.status);
        setText(
            freshness,
            error.status === 401
                ? "Your login has expired. Reload this page to log in again."
                : error.message
                      + (ended ? "" : " Trying again.")
                      + (answeredAt ? " This is the state at " + clockTime(answeredAt) + "." : "")
        );
    }
    if (!ended) {
        // To find a waiting job, Redis searches up to 20,000 places, so it is asked less often.
        const is_slow = latest && (latest.where === "ended"
            || latest.where === "queue" && (latest.place === null || latest.place > far));
        setTimeout(look, is_slow ? slow_interval_ms : interval_ms);
    }
}

if (cancel) {
    cancel.addEventListener("click", function () {
        whileBusy(cancel, "Cancelling…", async function () {
            try {
                const answer = await post(address(page.dataset.cancelUrl), {});
                outcome = " " + ({
                    cancelled: "It is cancelled.",
                    running: "It is cancelled. A worker runs it now, and makes no further call.",
                    perhaps_running: "It is cancelled. The broker does not answer, so perhaps a "
                        + "worker runs it now; that worker makes no further call.",
                }[answer.outcome] || "It had already ended: " + answer.outcome + ".");
            } catch (error) {
                outcome =
                    (error.status ? " It is not cancelled: " : " It may or may not be cancelled: ")
                    + error.message;
            }
            setText(freshness, outcome.trim());
        });
    });
}
setInterval(show, 1000);
look();
