// Keeps the dashboard up to date from /api/v1/live. The server wrote everything that is here at first;
// what is added later are copies of its templates. Text from outside is only ever set as text.
"use strict";
(() => {
  const root = document.documentElement;
  const length = Number(root.dataset.history);
  const by = id => document.getElementById(id);
  const field = (node, name) => node.querySelector(`[data-f=${name}]`);
  const round = (value, digits) => {
    const factor = 10 ** digits;
    return (Math.round(value * factor) / factor).toFixed(digits);
  };

  // As in format.rs.
  const count = n => String(n).replace(/\B(?=(\d{3})+$)/g, ",");
  const percent = share => `${round(share * 100, 1)} %`;
  const load = value => (value === null ? "" : `× ${round(value, 2)}`);
  const perSecond = rate => (rate >= 10 ? count(Math.round(rate)) : round(rate, 1));
  const milliseconds = ms => (ms === null ? "–" : `≤ ${ms} ms`);
  const utc = ms => new Date(ms).toISOString().slice(0, 19).replace("T", " ");
  const link = name => `/services/${encodeURIComponent(name)}`;
  const sum = counts => Object.values(counts).reduce((all, n) => all + n, 0);
  const sparkline = history => {
    const top = Math.max(2, ...history.filter(skew => skew !== null));
    let pen = "M", path = "";
    history.forEach((skew, i) => {
      if (skew === null) {
        pen = "M";
        return;
      }
      path += `${pen}${length - history.length + i} ${round(22 - (skew - 1) / (top - 1) * 20, 1)}`;
      pen = "L";
    });
    return [path, round(top, 2)];
  };

  // Untouched if nothing changed: a selection stays, a screen reader is not told again.
  const set = (node, text) => {
    if (node && node.textContent !== text) node.textContent = text;
  };
  const attribute = (node, name, value) => {
    if (node.getAttribute(name) !== value) node.setAttribute(name, value);
  };
  const fill = (node, texts) => {
    for (const [name, text] of Object.entries(texts)) set(field(node, name), text);
  };

  // Makes the children of `parent` those of `items`, in their order; children have keys.
  const keep = (parent, items, key, make, update) => {
    const present = new Map([...parent.children].map(child => [child.dataset.key, child]));
    let next = parent.firstElementChild;
    for (const item of items) {
      let child = present.get(key(item));
      if (!child) {
        child = make(item);
        child.dataset.key = key(item);
      }
      present.delete(key(item));
      if (child === next) next = next.nextElementSibling;
      else parent.insertBefore(child, next);
      update(child, item);
    }
    for (const child of present.values()) child.remove();
  };
  const copy = (id, selector) => () => by(id).content.querySelector(selector).cloneNode(true);

  const skewOf = service => service.skew[service.measure];
  const uneven = service => {
    const skew = skewOf(service);
    if (!skew || service.endpoints_usable < 2) return false;
    const bound = service.measure === "turns" ? skew.chance_level : service.rebalance.would_move ? 0 : Infinity;
    return skew.skew > Math.max(1.1, bound);
  };
  const figures = service => ({
    name: service.name,
    endpoints: `${count(service.endpoints_usable)} of ${count(service.endpoints_known)}`,
    sessions: count(service.sessions),
    rate: perSecond(service.turns_per_second),
    skew: skewOf(service) ? round(skewOf(service).skew, 2) : "–",
    moves: count(sum(service.moves.asked)),
  });

  const overview = (row, service) => {
    fill(row, { ...figures(service), headline: service.headline });
    attribute(field(row, "name"), "href", link(service.name));
  };

  const shareOf = (endpoint, measure) => (measure === "turns" ? endpoint.share : endpoint.session_share);
  const against = endpoint => !["well", "slow-start"].includes(endpoint.state);

  const section = (node, service) => {
    const { measure } = service;
    fill(node, {
      ...figures(service),
      listen: service.listen.join(", "),
      protocol: service.protocol,
      policy: measure === "turns" ? service.policy : service.session_policy,
      measure: measure === "turns" ? "requests" : "sessions",
      active: count(service.turns_in_flight),
      turns: count(service.turns),
      failures: count(sum(service.failures)),
      endpoints_more: count(service.endpoints_more),
    });
    attribute(field(node, "name"), "href", link(service.name));
    attribute(field(node, "skew"), "class", uneven(service) ? "hot" : "well");
    const [path, top] = sparkline(service.skew_history);
    attribute(node.querySelector(".line"), "d", path);
    set(field(node, "top"), top);
    const more = field(node, "more");
    more.hidden = service.endpoints_more === 0 || node.querySelector("details") !== null;
    attribute(more.firstElementChild, "href", link(service.name));
    const why = field(node, "why");
    while (why.children.length > service.why.length) why.lastElementChild.remove();
    service.why.forEach((sentence, i) => set(why.children[i] || why.appendChild(document.createElement("li")), sentence));
    const largest = service.endpoints.map(e => Math.max(shareOf(e, measure), 2 * e.fair_share));
    const full = Math.min(1, Math.max(Number.MIN_VALUE, ...largest));
    keep(node.querySelector("tbody"), service.endpoints, e => e.address, copy("row", "tr"), (row, e) => {
      endpoint(row, e, service, full);
    });
  };

  const endpoint = (row, e, service, full) => {
    const share = shareOf(e, service.measure);
    const ratio = e.fair_share > 0 ? share / e.fair_share : null;
    const hot = uneven(service) && ratio !== null;
    attribute(row, "class", against(e) ? "out" : hot && ratio > 1.5 ? "hot" : hot && ratio > 1.1 ? "warm" : "well");
    const progress = e.effective_weight / e.weight;
    fill(row, {
      address: e.address,
      place: [e.name, e.zone].filter(text => text !== null).join(", "),
      state: e.state === "slow-start" ? `slow start ${round(progress * 100, 0)} %` : e.state.replaceAll("-", " "),
      share: percent(share),
      fair: percent(e.fair_share),
      load: load(ratio),
      sessions: e.sessions === 0 && service.measure === "turns" ? "–" : count(e.sessions),
      rate: perSecond(e.turns_per_second),
      active: count(e.turns_in_flight),
      p50: milliseconds(e.first_byte_ms.p50),
      p99: milliseconds(e.first_byte_ms.p99),
      failures: count(sum(e.failures)),
      why: e.why,
    });
    attribute(field(row, "bar"), "width", round(Math.min(100, share / full * 100), 1));
    const mark = field(row, "mark");
    attribute(mark, "x", round(Math.min(99, e.fair_share / full * 100), 1));
    if (e.usable) mark.removeAttribute("visibility");
    else mark.setAttribute("visibility", "hidden");
  };

  const EVENTS = 50;
  const events = (news, service) => {
    const list = by("events");
    for (const event of news) {
      const known = list.firstElementChild ? Number(list.firstElementChild.dataset.id) : 0;
      if (event.id <= known || (service && event.service && event.service !== service)) continue;
      const item = copy("event", "li")();
      item.dataset.id = event.id;
      fill(item, { ...event, time: utc(event.unix_ms) });
      list.prepend(item);
      by("quiet").hidden = true;
    }
    while (list.children.length > EVENTS) list.lastElementChild.remove();
  };

  const badge = (id, text, good) => {
    set(by(id), text);
    attribute(by(id), "class", `badge ${good ? "good" : "bad"}`);
  };

  let started = null;
  const show = moment => {
    if (started !== null && started !== moment.started_unix_ms) {
      // Another process, perhaps another version with another page.
      location.reload();
      return;
    }
    started = moment.started_unix_ms;
    const header = document.querySelector("header");
    fill(header, {
      process: moment.name,
      started: utc(moment.started_unix_ms),
      file: moment.config.file === null ? "of the command line" : moment.config.file,
      generation: String(moment.config.generation),
      since: utc(moment.config.since_unix_ms),
    });
    badge("ready", moment.unready === null ? "ready" : moment.unready, moment.unready === null);
    const { error } = moment.config;
    by("reload").hidden = error === null;
    set(by("reload").querySelector("pre"), error === null ? "" : error.trimEnd());
    const table = by("overview");
    if (table) keep(table.tBodies[0], moment.services, s => s.name, copy("overview-row", "tr"), overview);
    const shown = moment.services.filter(service => service.endpoints);
    keep(by("services"), shown, s => s.name, copy("section", "section"), section);
    const only = new URLSearchParams(root.dataset.live.split("?")[1]).get("service");
    events(moment.events, only);
    set(by("shown"), utc(moment.unix_ms));
    badge("live", "live", true);
    root.dataset.moments = Number(root.dataset.moments || 0) + 1;
  };

  let lost = null;
  const lose = () => {
    lost = lost || utc(Date.now());
    badge("live", `connection lost at ${lost} UTC; trying again`, false);
  };
  const connect = () => {
    const source = new EventSource(root.dataset.live);
    source.addEventListener("moment", message => {
      lost = null;
      show(JSON.parse(message.data));
    });
    source.onerror = () => {
      lose();
      // A refusal is final for an EventSource, but not for us.
      if (source.readyState === EventSource.CLOSED) setTimeout(connect, 2000);
    };
  };
  badge("live", "connecting", true);
  connect();
})();
