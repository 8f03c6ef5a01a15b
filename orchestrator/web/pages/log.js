// The script of logs: it scrolls a long one, opens the log of a step, and follows a run that
// goes on. Without it each of these is a link. It makes text nodes alone, never HTML.
"use strict";

async function load(url) {
	const answer = await fetch(url, {headers: {"Accept": "application/json"}});
	if (!answer.ok) {
		throw new Error("status " + answer.status);
	}
	return answer.json();
}

// line returns the element of a row. Link is the path of its log.
function line(row, link, named) {
	const div = document.createElement("div");
	if (named) {
		div.id = "L" + row.n;
	}
	const a = document.createElement("a");
	a.href = link + "?from=" + row.n + "#L" + row.n;
	a.textContent = row.n;
	const code = document.createElement("code");
	if (row.e) {
		code.className = "err";
	}
	for (const s of row.s || []) {
		if (!s.c) {
			code.append(s.t);
			continue;
		}
		const span = document.createElement("span");
		span.className = s.c;
		span.textContent = s.t;
		code.append(span);
	}
	div.append(a, code);
	if (row.p) {
		const part = document.createElement("i");
		part.setAttribute("aria-label", "goes on in the next line");
		part.textContent = "…";
		div.append(part);
	}
	return div;
}

// maxFull is how many chunks of a long log the page keeps, and maxLoads how many it asks for
// at once. maxHeight is what browsers still scroll: a log that is higher has pages alone.
const maxFull = 40, maxLoads = 2, maxHeight = 16e6;

// A long log: room for each chunk of lines that the page has not, filled when it comes into
// sight, and emptied when it has long gone out of it.
function scroll(log) {
	const d = log.dataset;
	const lines = Number(d.lines), chunk = Number(d.chunk), next = Number(d.next), first = Number(d.first);
	const top = log.firstElementChild;
	const height = top.getBoundingClientRect().height;
	if (!lines || (!next && first === 1) || lines * height > maxHeight) {
		return;
	}
	const chunks = [];
	const add = (from, to, before) => {
		const room = document.createElement("section");
		room.dataset.from = from;
		room.dataset.to = to;
		room.style.height = (to - from) * height + "px";
		log.insertBefore(room, before);
		chunks.push(room);
	};
	for (let from = 1; from < first; from += chunk) {
		add(from, Math.min(from + chunk, first), top);
	}
	for (let from = next; next && from <= lines; from += chunk) {
		add(from, Math.min(from + chunk, lines + 1), null);
	}
	const inSight = new Set(), full = new Set(); // in the order in which they came to be so
	const empty = (room) => {
		room.style.height = room.getBoundingClientRect().height + "px";
		room.style.containIntrinsicHeight = "";
		room.replaceChildren();
		full.delete(room);
	};
	const fill = async (room) => {
		full.add(room);
		try {
			const to = Number(room.dataset.to);
			const rows = [];
			for (let from = Number(room.dataset.from); from && from < to;) {
				const got = await load(d.url + "?from=" + from);
				rows.push(...got.rows.filter((row) => row.n < to));
				from = got.next;
			}
			room.replaceChildren(...rows.map((row) => line(row, d.url, true)));
			room.style.height = "";
			room.style.containIntrinsicHeight = "auto " + rows.length * height + "px";
		} catch {
			const p = document.createElement("p");
			const a = document.createElement("a");
			a.href = d.url + "?from=" + room.dataset.from;
			a.textContent = "These lines did not come: load them again";
			p.append(a);
			room.replaceChildren(p);
			full.delete(room);
		}
		for (const old of full) {
			if (full.size <= maxFull) {
				break;
			}
			if (!inSight.has(old) && !old.contains(document.activeElement) && !getSelection().containsNode(old, true)) {
				empty(old);
			}
		}
	};
	let loads = 0;
	const fillNext = () => {
		const room = [...inSight].reverse().find((r) => !full.has(r) && !r.firstChild);
		if (room && loads < maxLoads) {
			loads++;
			fill(room).finally(() => {
				loads--;
				fillNext();
			});
		}
	};
	const watch = new IntersectionObserver((all) => {
		for (const e of all) {
			inSight.delete(e.target);
			if (e.isIntersecting) {
				inSight.add(e.target);
			}
			fillNext();
		}
	}, {rootMargin: "1000px"});
	for (const room of chunks) {
		watch.observe(room);
	}
	// A line that a URL names may stand in a chunk that is not there yet.
	const go = async () => {
		const wanted = Number(/^#L(\d+)$/.exec(location.hash)?.[1]);
		const room = chunks.find((c) => Number(c.dataset.from) <= wanted && wanted < Number(c.dataset.to));
		if (room && !document.getElementById("L" + wanted)) {
			await fill(room);
		}
		if (document.getElementById("L" + wanted)) {
			location.replace("#L" + wanted); // now the browser finds it
		} else {
			room?.scrollIntoView(); // it says that its lines did not come
		}
	};
	addEventListener("hashchange", () => {
		if (!document.querySelector(":target")) {
			go();
		}
	});
	// The number of a line names it in the URL, with the page that has it for those who have
	// no script.
	log.addEventListener("click", (event) => {
		const a = event.target.closest("section a");
		if (a && a.hash && !event.ctrlKey && !event.metaKey && !event.shiftKey && !event.altKey) {
			event.preventDefault();
			history.replaceState(null, "", a.href);
			location.replace(a.hash);
		}
	});
	if (first > 1) {
		top.scrollIntoView();
	}
	if (location.hash) {
		go();
	}
}

// The first lines of a step's log, when it is opened.
async function unfold(step) {
	const log = step.querySelector(".log");
	if (!step.open || "loaded" in log.dataset) {
		return;
	}
	log.dataset.loaded = "";
	try {
		const got = await load(step.dataset.url);
		log.replaceChildren(...got.rows.map((row) => line(row, step.dataset.url, false)));
		if (got.next) {
			const p = document.createElement("p");
			const a = document.createElement("a");
			a.href = step.dataset.url + "?from=" + got.next;
			a.textContent = "Later lines";
			p.append(a);
			log.after(p);
		}
	} catch {
		delete log.dataset.loaded;
	}
}

// maxLive is how many lines of a step the page keeps while they come.
const maxLive = 5000;

// How long the page tries again to follow a run that it has lost, and the time between, in
// milliseconds. An orchestrator that was started anew has its executors back within that.
const patience = 60000, pause = 3000;

// A run that goes on.
function follow(live) {
	const said = document.getElementById("said");
	const steps = [...live.querySelectorAll(".step")];
	const show = (step, state) => {
		const s = step.querySelector(".s");
		s.textContent = state;
		s.className = "s " + (["passed", "failed", "error", "cancelled", "skipped", "queued"].includes(state) ? state : "running");
	};
	const url = new URL(live.dataset.live, location.href);
	let lost = 0; // since when the page does not follow
	const open = () => {
		const source = new EventSource(url);
		source.addEventListener("open", () => {
			if (lost) {
				said.textContent = "";
			}
			lost = 0;
		});
		source.addEventListener("rows", rows);
		source.addEventListener("step", passed);
		source.addEventListener("end", (event) => {
			source.close();
			ended(event);
		});
		source.addEventListener("error", () => {
			if (source.readyState !== EventSource.CLOSED) {
				return; // the browser tries again
			}
			lost = lost || Date.now();
			if (Date.now() - lost > patience) {
				said.textContent = "The page does not follow the run any more: load it again.";
				return;
			}
			said.textContent = "The page has lost the run, and tries again.";
			setTimeout(open, pause);
		});
	};
	const rows = (event) => {
		url.searchParams.set("at", event.lastEventId);
		const got = JSON.parse(event.data);
		const step = steps[got.step];
		const log = step.querySelector(".log");
		const bottom = log.getBoundingClientRect().bottom;
		if (!("loaded" in log.dataset)) {
			log.dataset.loaded = ""; // all of its lines come by this way
			step.open = true;
		}
		log.append(...got.rows.map((row) => line(row, step.dataset.url, false)));
		while (log.childElementCount > maxLive) {
			log.firstElementChild.remove();
		}
		if (bottom > 0 && bottom < innerHeight + 50) { // its end is in sight, and stays there
			scrollBy({top: log.getBoundingClientRect().bottom - bottom, behavior: "instant"});
		}
	};
	const passed = (event) => {
		url.searchParams.set("at", event.lastEventId);
		const got = JSON.parse(event.data);
		const step = steps[got.step];
		show(step, got.state);
		step.querySelector(".took").textContent = got.state === "skipped" ? "" : got.took;
		if (got.state === "passed" || got.state === "skipped") {
			step.open = false;
			if (steps[got.step + 1]) {
				show(steps[got.step + 1], "running");
			}
		}
		said.textContent = step.dataset.step + ": " + got.state;
	};
	const ended = (event) => {
		const got = JSON.parse(event.data);
		const state = document.getElementById("state");
		state.textContent = got.state;
		state.className = "s " + got.state;
		const a = document.createElement("a");
		a.href = location.pathname;
		a.textContent = "Load the page again for its manifest";
		said.replaceChildren("The run has ended: " + got.state + ". ", a, ".");
	};
	open();
}

for (const log of document.querySelectorAll(".log[data-lines]")) {
	scroll(log);
}
for (const step of document.querySelectorAll(".step")) {
	step.addEventListener("toggle", () => { unfold(step); });
}
const live = document.querySelector("[data-live]");
if (live) {
	follow(live);
}
