// The only script of the page: it asks the browser for a passkey, as a form of the class
// passkey says in data-begin, data-do and data-end, and tells the server what it got.
"use strict";

function bytes(text) {
	const s = atob(text.replace(/-/g, "+").replace(/_/g, "/"));
	return Uint8Array.from(s, (c) => c.charCodeAt(0));
}

function text(buffer) {
	const s = String.fromCharCode(...new Uint8Array(buffer));
	return btoa(s).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
}

async function post(url, body) {
	const answer = await fetch(url, {
		method: "POST",
		headers: {"Content-Type": "application/json", "Accept": "application/json"},
		body: JSON.stringify(body),
	});
	const got = await answer.json().catch(() => ({}));
	if (!answer.ok) {
		throw new Error(got.error || "The server answered with status " + answer.status + ".");
	}
	return got;
}

async function create(options) {
	options.challenge = bytes(options.challenge);
	options.user.id = bytes(options.user.id);
	for (const c of options.excludeCredentials || []) {
		c.id = bytes(c.id);
	}
	const made = await navigator.credentials.create({publicKey: options});
	const r = made.response;
	return {
		id: made.id, rawId: text(made.rawId), type: made.type,
		clientExtensionResults: made.getClientExtensionResults(),
		response: {
			clientDataJSON: text(r.clientDataJSON),
			attestationObject: text(r.attestationObject),
			transports: r.getTransports ? r.getTransports() : [],
		},
	};
}

async function get(options) {
	options.challenge = bytes(options.challenge);
	const got = await navigator.credentials.get({publicKey: options});
	const r = got.response;
	return {
		id: got.id, rawId: text(got.rawId), type: got.type,
		clientExtensionResults: got.getClientExtensionResults(),
		response: {
			clientDataJSON: text(r.clientDataJSON),
			authenticatorData: text(r.authenticatorData),
			signature: text(r.signature),
			userHandle: r.userHandle ? text(r.userHandle) : "",
		},
	};
}

function words(err) {
	switch (err.name) {
	case "NotAllowedError":
		return "No passkey was used: it was cancelled, took too long, or there is none for this page here.";
	case "InvalidStateError":
		return "This device has a passkey of the account already.";
	case "SecurityError":
		return "The browser gives no passkey to a page of this address.";
	}
	return err.message;
}

async function run(form) {
	const field = (name) => form.elements.namedItem(name);
	const token = field("token").value;
	const begun = await post(form.dataset.begin, {token});
	const ask = begun.options.publicKey;
	const credential = await (form.dataset.do === "create" ? create(ask) : get(ask));
	const name = field("name") ? field("name").value : "";
	const got = await post(form.dataset.end, {token, ceremony: begun.ceremony, credential, name});
	location.assign(got.location);
}

for (const form of document.querySelectorAll("form.passkey")) {
	const problem = form.querySelector(".problem");
	const button = form.querySelector("button");
	const show = (s) => {
		problem.textContent = s;
		problem.hidden = s === "";
	};
	form.hidden = false;
	if (!window.PublicKeyCredential) {
		button.disabled = true;
		show("This browser has no passkeys, or the page did not come by https.");
		continue;
	}
	form.addEventListener("submit", (event) => {
		event.preventDefault();
		show("");
		button.disabled = true;
		run(form).catch((err) => show(words(err))).finally(() => { button.disabled = false; });
	});
}
