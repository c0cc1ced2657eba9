// Numbers, times, limits and codes in words.

const maxNames = 3; // names in one line
export const hourAndMinute = { hour: "2-digit", minute: "2-digit" };

export function count(number) {
    return Math.round(number).toLocaleString("en");
}

export function plural(number, one) {
    return count(number) + " " + one + (number === 1 ? "" : "s");
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

// A countdown, as on a kitchen clock: 42:54, or 1:02:03 with hours.
export function clock(ms) {
    const seconds = Math.max(0, Math.ceil(ms / 1000));
    const parts = [Math.floor(seconds / 60) % 60, seconds % 60];
    const hours = Math.floor(seconds / 3600);
    const texts = hours ? [hours].concat(parts) : parts;
    return texts
        .map(function (part, place) {
            return place ? String(part).padStart(2, "0") : String(part);
        })
        .join(":");
}

// What a person paused a service by, if somebody did: a block of all its keys.
export function pauseOf(keys) {
    return keys.length
        ? keys[0].blocks.find(function (one) {
              return one.scope === "host" && one.disabled_by;
          })
        : undefined;
}

// The milliseconds until the first key is back, if none is ready; null if none comes back by
// itself.
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

// A code of ours, such as rate_limit, in words; other texts stay as they are.
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

// A limit by its code alone, such as rpm: requests a minute.
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
    same_job: "another job with its dedupe_key is open",
    redis_down: "Redis does not answer",
};

// The reason why a job waits: a limit, such as rpm, by what it counts; any other code in words.
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

export function limitName(one) {
    return unit(one.dimension) + " " + windowName(one.window_ms);
}

export function blockWords(one) {
    if (one.scope === "host" && one.disabled_by) {
        return "paused, all keys: " + one.reason + ", by " + one.disabled_by;
    }
    const where = {
        key: "",
        account: "account: ",
        account_model: one.name ? "model " + one.name + ": " : "account: ",
        key_resource: one.name + ": ",
        model: "model " + one.name + ", all keys: ",
        host: "provider, all keys: ",
    }[one.scope];
    return where + (one.disabled_by ? one.reason + ", by " + one.disabled_by : words(one.reason))
        + (one.from_tokens ? " for jobs of " + count(one.from_tokens) + " tokens or more" : "")
        + (one.since_ms ? ", since " + clockTime(one.since_ms, hourAndMinute) : "");
}

// The blocks of a key; those for domains or models that it may not use are joined by reason.
export function grouped(blocks) {
    const found = [];
    const byReason = new Map();
    blocks.forEach(function (one) {
        const first = byReason.get(one.reason);
        if (one.scope !== "key_resource" || one.left_ms !== null) {
            found.push(one);
        } else if (first) {
            first.names.push(one.name);
            first.since_ms = Math.min(first.since_ms, one.since_ms);
        } else {
            byReason.set(one.reason, Object.assign({}, one, { names: [one.name] }));
            found.push(byReason.get(one.reason));
        }
    });
    byReason.forEach(function (one) {
        const more = one.names.length - maxNames;
        one.names.sort();
        one.name = "not for " + one.names.slice(0, maxNames).join(", ")
            + (more > 0 ? " and " + count(more) + " more" : "");
    });
    return found;
}
