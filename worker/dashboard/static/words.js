// Puts numbers, times, limits and codes into words.

const maxNames = 3; // names in one line
export const hourAndMinute = { hour: "2-digit", minute: "2-digit" };

export function count(number) {
    return Math.round(number).toLocaleString("en");
}

export function plural(number, noun) {
    return count(number) + " " + noun + (number === 1 ? "" : "s");
}

export function title(service) {
    return service.charAt(0).toUpperCase() + service.slice(1);
}

export function duration(ms) {
    const seconds = Math.max(0, Math.ceil(ms / 1000));
    const two = function (number) { return String(number).padStart(2, "0"); };
    if (seconds < 60) {
        return seconds + " s";
    }
    if (seconds < 3600) {
        return Math.floor(seconds / 60) + " min " + two(seconds % 60) + " s";
    }
    return Math.floor(seconds / 3600) + " h " + two(Math.floor(seconds / 60) % 60) + " min";
}

// Returns a countdown: 42:54, or 1:02:03 with hours.
export function clock(ms) {
    const seconds = Math.max(0, Math.ceil(ms / 1000));
    const parts = [Math.floor(seconds / 60) % 60, seconds % 60];
    const hours = Math.floor(seconds / 3600);
    const texts = hours ? [hours].concat(parts) : parts;
    return texts
        .map(function (part, index) {
            return index ? String(part).padStart(2, "0") : String(part);
        })
        .join(":");
}

// Returns the block with which a person paused a service, if there is one: all its keys have it.
export function pauseOf(keys) {
    return keys.length
        ? keys[0].blocks.find(function (block) {
              return block.scope === "host" && block.disabled_by;
          })
        : undefined;
}

// Returns the milliseconds until the first key is back, if none is ready; null if no key recovers
// without a person.
export function firstBack(keys) {
    const rests = keys.filter(function (key) { return key.left_ms !== null; });
    return rests.length
        ? Math.min.apply(
              null,
              rests.map(function (key) {
                  return key.left_ms;
              })
          )
        : null;
}

export function clockTime(at_ms, options) {
    const at = new Date(at_ms);
    const today = new Date().toDateString() === at.toDateString();
    return (today ? "" : at.toLocaleDateString() + " ") + at.toLocaleTimeString([], options);
}

// Puts a code of ours, such as rate_limit, into words; other texts stay unchanged.
export function words(code) {
    return /^[a-z_]+$/.test(code) ? code.replaceAll("_", " ") : code;
}

function windowName(window_ms) {
    const days = window_ms / 86400000;
    return { 1000: "a second", 60000: "a minute", 3600000: "an hour", 86400000: "a day" }[window_ms]
        || "in " + (days >= 2 ? plural(days, "day") : duration(window_ms));
}

function unit(dimension) {
    const units = {
        r: "requests",
        t: "tokens",
        e: "emails",
        i: "input tokens",
        o: "output tokens",
    };
    return units[dimension[0]] || dimension;
}

// Puts the code of a limit into words: rpm becomes "requests a minute".
export function limitWords(code, limit) {
    const windows = { s: "a second", m: "a minute", d: "a day", mo: "a month" };
    const parts = /^([a-z]+?)p(s|m|d|mo)$/.exec(code);
    const name = parts ? unit(parts[1]) + " " + windows[parts[2]] : code;
    return limit === undefined ? name : count(limit) + " " + name;
}

const waitCodes = {
    waiting: "no key may be called",
    disabled: "every key is disabled",
    paused: "paused by a person",
    no_key: "no key is configured for it",
    same_email: "another job sends the same email",
    same_job: "another job with the same dedupe_key is open",
    redis_down: "Redis does not answer",
};

// Puts the reason why a job waits into words.
export function waitWords(waits) {
    const limit = /^(r|t|e|it|ot)p(s|m|d|mo)$/.test(waits.code);
    const why = limit
        ? "limit reached: " + limitWords(waits.code)
        : waitCodes[waits.code] || words(waits.code);
    return !waits.kind
        ? "unknown reason"
        : waits.kind === "failure"
          ? "a call failed (" + why + ")"
          : why;
}

export function limitName(bucket) {
    return unit(bucket.dimension) + " " + windowName(bucket.window_ms);
}

export function blockWords(block) {
    if (block.scope === "host" && block.disabled_by) {
        return "paused, all keys: " + block.reason + ", by " + block.disabled_by;
    }
    const where = {
        key: "",
        account: "account: ",
        account_model: block.name ? "model " + block.name + ": " : "account: ",
        key_resource: block.name + ": ",
        model: "model " + block.name + ", all keys: ",
        host: "provider, all keys: ",
    }[block.scope];
    const by = block.disabled_by;
    return where + (by ? block.reason + ", by " + by : words(block.reason))
        + (block.from_tokens ? " for jobs of " + count(block.from_tokens) + " tokens or more" : "")
        + (block.since_ms ? ", since " + clockTime(block.since_ms, hourAndMinute) : "");
}

// Returns the blocks of a key, with one block for all resources that have the same reason.
export function grouped(blocks) {
    const found = [];
    const byReason = new Map();
    blocks.forEach(function (block) {
        const first = byReason.get(block.reason);
        if (block.scope !== "key_resource" || block.left_ms !== null) {
            found.push(block);
        } else if (first) {
            first.names.push(block.name);
            first.since_ms = Math.min(first.since_ms, block.since_ms);
        } else {
            byReason.set(block.reason, Object.assign({}, block, { names: [block.name] }));
            found.push(byReason.get(block.reason));
        }
    });
    byReason.forEach(function (block) {
        const more = block.names.length - maxNames;
        block.names.sort();
        block.name = "not for " + block.names.slice(0, maxNames).join(", ")
            + (more > 0 ? " and " + count(more) + " more" : "");
    });
    return found;
}
