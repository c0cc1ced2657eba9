// Talks to the admin endpoints.

const give_up_ms = 10000;
const give_up_on_change_ms = 65000; // a replay of many takes its time

export async function talk(url, options) {
    const giveUp = new AbortController();
    const late = setTimeout(function () { giveUp.abort(); }, options ? give_up_on_change_ms : give_up_ms);
    try {
        const answer = await fetch(url, Object.assign(
            { credentials: "same-origin", cache: "no-store", signal: giveUp.signal }, options));
        const told = await answer.json().catch(function () { return {}; });
        if (!answer.ok) {
            const refusal = new Error(told.message || "Flower answered " + answer.status + ".");
            refusal.status = answer.status;
            throw refusal;
        }
        return told;
    } catch (error) {
        if (error.name === "AbortError") {
            throw new Error("Flower did not answer in time.");
        }
        throw error instanceof TypeError ? new Error("Flower cannot be reached.") : error;
    } finally {
        clearTimeout(late);
    }
}

function cookie(name) {
    const found = document.cookie.split("; ").find(function (pair) { return pair.startsWith(name + "="); });
    return found ? decodeURIComponent(found.slice(name.length + 1)) : "";
}

export function post(url, body) {
    return talk(url, {
        method: "POST",
        headers: { "Content-Type": "application/json", "X-XSRFToken": cookie("_xsrf") },
        body: JSON.stringify(body),
    });
}
