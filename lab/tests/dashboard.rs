//! The dashboard, as a browser shows it, and as it is without one.

mod common;

use common::browser::Tab;
use common::peers::{free_port, have};
use common::{Backend, Client, Proxy, connect, eventually, field, read_all};
use evenkeel_core::address::Address;
use evenkeel_core::balancer::Policy;
use evenkeel_proxy::config::{Config, Service};
use evenkeel_proxy::{Running, start};
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::Write;
use std::net::SocketAddr;

/// Markup, if anybody forgot that it is a name.
const ODD: &str = "<img src=x onerror=\"document.title='owned'\">&amp;";
/// Cannot be broken where there is a space.
const LONG: &str = "a-service-with-a-name-that-is-longer-than-any-telephone-is-wide-and-has-no-spaces";

/// A proxy with several services, its admin API at `admin`.
fn proxy(services: &[(&str, String)], admin: SocketAddr) -> Running {
    let mut config = Config::new();
    (config.workers, config.admin) = (Some(1), Some(admin));
    for (name, target) in services {
        let listen: Address = "127.0.0.1:0".parse().expect("an address");
        let mut service = Service::new(*name, vec![listen], vec![target.parse().expect("a target")]);
        service.balance.core.turn_policy = Policy::RoundRobin;
        config.services.push(service);
    }
    start(config).expect("it starts")
}

fn anywhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn addr(running: &Running, service: &str) -> SocketAddr {
    let Address::Ip(addr) = running.listening[service][0] else { panic!("a TCP listener") };
    addr
}

fn list(endpoints: &[SocketAddr]) -> String {
    endpoints.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn fetch(running: &Running, method: &str, path: &str) -> String {
    let mut client = connect(running.admin.expect("an admin API"));
    let request = format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
    client.write_all(request.as_bytes()).expect("sent");
    read_all(&mut client)
}

fn json(running: &Running, path: &str) -> Value {
    let answer = fetch(running, "GET", path);
    serde_json::from_str(answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)).expect("JSON")
}

/// One client makes so many requests; how many failed.
fn requests(addr: SocketAddr, n: usize) -> usize {
    let mut client = Client(connect(addr));
    (0..n).filter(|_| common::status(&client.get("/")) != 200).count()
}

/// A proxy under whose endpoints one is ejected and one drained, an odd one, and one with a long name.
struct Scene {
    running: Running,
    url: String,
    shop: SocketAddr,
    ejected: SocketAddr,
    drained: SocketAddr,
    _backends: Vec<Backend>,
}

impl Scene {
    fn new() -> Self {
        let backends: Vec<Backend> = ["one", "two", "three", "four"].map(Backend::answering).into();
        let ejected = Backend::nobody();
        let mut endpoints: Vec<SocketAddr> = backends.iter().map(|b| b.addr).collect();
        let drained = endpoints[3];
        endpoints.push(ejected);
        let services = [("shop", list(&endpoints)), (ODD, list(&endpoints[..2])), (LONG, list(&endpoints[..1]))];
        let running = proxy(&services, anywhere());
        let shop = addr(&running, "shop");
        let scene = Self {
            url: format!("http://{}/", running.admin.expect("an admin API")),
            running,
            shop,
            ejected,
            drained,
            _backends: backends,
        };
        // Connections that are refused: tried elsewhere, and counted against the endpoint.
        eventually("ejected", || {
            assert_eq!(requests(shop, 10), 0);
            scene.endpoint(ejected)["state"] == "ejected"
        });
        let drain = format!("/api/v1/services/shop/endpoints/{drained}/drain");
        assert!(fetch(&scene.running, "POST", &drain).contains(" 200 "));
        eventually("drained", || scene.endpoint(drained)["state"] == "drained");
        assert_eq!(requests(shop, 30), 0);
        scene
    }

    fn endpoint(&self, addr: SocketAddr) -> Value {
        let mut service = json(&self.running, "/api/v1/services/shop");
        let endpoints = service["endpoints"].as_array_mut().expect("a list");
        endpoints.iter_mut().find(|e| e["address"] == addr.to_string()).expect("it is known").take()
    }
}

#[test]
fn it_is_complete_without_scripts_and_loads_nothing_from_elsewhere() {
    let scene = Scene::new();
    let page = fetch(&scene.running, "GET", "/");
    let body = page.split_once("\r\n\r\n").expect("a body").1;
    let turns = json(&scene.running, "/api/v1/services/shop")["turns"].to_string();
    for part in [
        "<noscript><meta http-equiv=refresh content=5></noscript>",
        "<th scope=col class=n>Sessions",
        "scope=row",
        "data-f=endpoints>3 of 5<",
        &format!("data-f=turns>{turns}<"),
        &format!("<span data-f=address>{}</span>", scene.drained),
        "data-f=state>drained<",
        "data-f=state>ejected<",
        "an operator has been draining it for ",
        // How long an ejection lasts is drawn by chance.
        " s more: ",
        &format!("{} is ejected", scene.ejected),
        "33.3 %</span>",
        "<b data-f=kind>ejected</b>",
        "configuration <span data-f=file>of the command line</span>",
        "&lt;img src=x onerror=&quot;document.title=&#39;owned&#39;&quot;&gt;&amp;amp;",
    ] {
        assert!(body.contains(part), "{part} in {body}");
    }
    for never in ["://", "src=//", "href=//", " style=", "<style", "<img", "javascript:"] {
        assert!(!body.replace("unix://", "").contains(never), "{never} in {body}");
    }
    let policy = field(&page, "content-security-policy").expect("a policy");
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    for (asset, kind) in [("/page.js", "text/javascript"), ("/page.css", "text/css")] {
        let answer = fetch(&scene.running, "GET", asset);
        assert!(answer.contains(" 200 ") && answer.contains(kind), "{answer}");
        assert!(!answer.contains("http://") && !answer.contains("https://"), "{asset} refers to elsewhere");
    }
    assert!(fetch(&scene.running, "GET", "/services/shop").contains("All services"));
    assert!(fetch(&scene.running, "GET", "/services/shup").contains("\"did_you_mean\":[\"shop\"]"));
}

#[test]
fn a_thousand_endpoints_are_folded_and_the_unfit_come_first() {
    let many: Vec<SocketAddr> =
        (1..=1_000).map(|i| SocketAddr::from(([127, 1, (i / 250) as u8, (i % 250) as u8], 9))).collect();
    let running = proxy(&[("many", list(&many))], anywhere());
    let drained = many[777];
    assert!(fetch(&running, "POST", &format!("/api/v1/services/many/endpoints/{drained}/drain")).contains(" 200 "));
    eventually("drained", || {
        let page = fetch(&running, "GET", "/");
        let first = page.split("<th role=rowheader scope=row>").nth(1).expect("a row");
        first.starts_with(&format!("<span data-f=address>{drained}"))
    });
    let page = fetch(&running, "GET", "/");
    // One more is the template of a row.
    assert_eq!(page.matches("<th role=rowheader").count(), 12 + 1);
    assert!(page.contains("… and <span data-f=endpoints_more>988</span> more"), "{page}");
    let all = fetch(&running, "GET", "/services/many");
    assert_eq!(all.matches("<th role=rowheader").count(), 1_000 + 1);
    assert!(all.contains("<details><summary>… and 950 more"));
}

#[test]
fn in_a_browser_it_is_live() {
    if !have(&["chromium"]) {
        return;
    }
    let scene = Scene::new();
    let mut tab = Tab::open();
    tab.go(&scene.url);
    tab.until("document.getElementById('live').textContent === 'live'");
    let shop = "document.querySelector('section[data-key=shop]')";
    let figure = |tab: &mut Tab, name: &str| {
        let text = tab.ask(&format!("{shop}.querySelector('dl [data-f={name}]').textContent"));
        text.as_str().and_then(|text| text.replace(',', "").parse::<u64>().ok()).unwrap_or_else(|| panic!("{text}"))
    };
    let before = figure(&mut tab, "turns");
    assert_eq!(requests(scene.shop, 500), 0);
    tab.until(&format!("{shop}.querySelector('dl [data-f=turns]').textContent === '{}'", before + 500));
    tab.until(&format!("parseFloat({shop}.querySelector('dl [data-f=rate]').textContent) > 0"));
    // The sparkline grows, a state changes, the event is on top, all without loading the page again.
    tab.ask("window.same = true");
    let length = tab.ask(&format!("{shop}.querySelector('.line').getAttribute('d').length"));
    tab.until(&format!("{shop}.querySelector('.line').getAttribute('d').length > {length}"));
    let row = format!("{shop}.querySelector('tr[data-key=\"{}\"]')", scene.drained);
    assert_eq!(tab.ask(&format!("{row}.querySelector('[data-f=state]').textContent")), "drained");
    let undrain = format!("/api/v1/services/shop/endpoints/{}/drain", scene.drained);
    assert!(fetch(&scene.running, "DELETE", &undrain).contains(" 200 "));
    tab.until(&format!("{row}.querySelector('[data-f=state]').textContent.startsWith('slow start')"));
    tab.until("document.querySelector('#events li [data-f=kind]').textContent === 'undrained'");
    assert_eq!(tab.ask("document.querySelectorAll('#events li [data-f=kind]').length"), {
        let page = fetch(&scene.running, "GET", "/");
        page.matches("<b data-f=kind>").count() - 1
    });
    assert_eq!(tab.ask("window.same"), true);
    // Names stay text.
    assert_eq!(tab.ask("document.images.length"), 0);
    assert_ne!(tab.ask("document.title"), "owned");
    tab.until(&format!("document.querySelectorAll('#services > section')[1].dataset.key === {ODD:?}"));
    assert_eq!(tab.complaints(), Vec::<String>::new());
}

#[test]
fn the_script_writes_what_the_server_writes() {
    if !have(&["chromium"]) {
        return;
    }
    let backends: Vec<Backend> = ["one", "two", "three"].map(Backend::answering).into();
    let endpoints: Vec<SocketAddr> = backends.iter().map(|b| b.addr).collect();
    let target = format!("{};weight=3;zone=a,{};zone=b,{}", endpoints[0], endpoints[1], endpoints[2]);
    let running = proxy(&[("shop", target), ("idle", list(&endpoints[..1]))], anywhere());
    assert_eq!(requests(addr(&running, "shop"), 1_234), 0);
    // Until then rates fall.
    eventually("quiet", || json(&running, "/api/v1/services/shop")["turns_per_second"] == 0.0);
    let mut tab = Tab::open();
    let url = format!("http://{}/", running.admin.expect("an admin API"));
    let read =
        "document.querySelector('header .facts:nth-of-type(2)').innerText + document.querySelector('main').innerText";
    tab.scripts(false);
    tab.go(&url);
    assert_eq!(tab.ask("document.getElementById('live').textContent"), "renewed every 5 s", "no script runs");
    let servers = tab.ask(read);
    tab.scripts(true);
    tab.go(&url);
    tab.until("document.documentElement.dataset.moments > 0");
    assert_eq!(tab.ask(read), servers);
    // The same for what the script has made from templates alone.
    tab.ask("document.querySelector('#services').replaceChildren(), document.querySelector('#overview tbody').replaceChildren(),
             document.querySelector('#events').replaceChildren()");
    tab.until("document.querySelectorAll('#services > section').length === 2");
    let without_events = |text: Value| text.as_str().expect("text").split("Events").next().map(str::to_owned);
    assert_eq!(without_events(tab.ask(read)), without_events(servers));
    assert_eq!(tab.complaints(), Vec::<String>::new());
}

/// Texts whose contrast with what is behind them is less than WCAG 2.1, section 1.4.3 wants.
const PALE: &str = "(() => {
  const channels = colour => colour.match(/[\\d.]+/g).map(Number);
  const luminance = colour => {
    const [r, g, b] = channels(colour).map(c => c / 255).map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = node => {
    for (let n = node; n; n = n.parentElement) {
      const colour = getComputedStyle(n).backgroundColor;
      if (channels(colour)[3] !== 0) return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  const own = node => [...node.childNodes].some(n => n.nodeType === 3 && n.data.trim());
  return [...document.body.querySelectorAll('*')].filter(n => own(n) && n.checkVisibility()).flatMap(n => {
    const [a, b] = [luminance(getComputedStyle(n).color), luminance(behind(n))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    return contrast < 4.5 ? [`${n.textContent} ${contrast}`] : [];
  });
})()";

#[test]
fn it_fits_wide_and_narrow_light_and_dark() {
    if !have(&["chromium"]) {
        return;
    }
    let scene = Scene::new();
    scene.running.reload_failed(&format!("evenkeel.yaml:3:5: services[0].{}: unknown key", "x".repeat(200)));
    let mut tab = Tab::open();
    for (width, name) in [(1280, "wide"), (768, "medium"), (390, "narrow"), (360, "narrowest")] {
        let mut pictures = Vec::new();
        for scheme in ["light", "dark"] {
            tab.looks(width, 900, scheme);
            tab.go(&scene.url);
            tab.until("document.documentElement.dataset.moments > 0");
            let overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth";
            assert_eq!(tab.ask(overflow), 0, "{name}");
            assert_eq!(tab.ask("document.documentElement.clientWidth"), width);
            assert_eq!(tab.ask(PALE), Value::Array(vec![]), "{name} {scheme}");
            pictures.push(tab.picture(&format!("{name}-{scheme}")));
        }
        let mean = |pixels: &[[u8; 3]]| {
            pixels.iter().flatten().map(|&c| u64::from(c)).sum::<u64>() / (pixels.len() as u64 * 3)
        };
        let (light, dark) = (mean(&pictures[0]), mean(&pictures[1]));
        assert!(light > 200 && dark < 70, "{name}: {light} and {dark}");
        for pixels in &pictures {
            let colours: BTreeSet<_> = pixels.iter().collect();
            assert!(colours.len() > 100, "{name} is blank: {} colours", colours.len());
        }
    }
    assert_eq!(tab.complaints(), Vec::<String>::new());
}

#[test]
fn it_says_when_the_connection_is_lost_and_comes_back() {
    if !have(&["chromium"]) {
        return;
    }
    let one = Backend::answering("one");
    let admin = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let running = proxy(&[("before", list(&[one.addr]))], admin);
    let mut tab = Tab::open();
    tab.go(&format!("http://{admin}/"));
    tab.until("document.getElementById('live').textContent === 'live'");
    running.cut();
    tab.until("document.getElementById('live').textContent.startsWith('connection lost at ')");
    let _running = proxy(&[("after", list(&[one.addr]))], admin);
    tab.until("document.getElementById('live')?.textContent === 'live'");
    tab.until("document.querySelector('#services h2')?.textContent === 'after'");
}

#[test]
fn one_service_is_live_on_its_own_page() {
    if !have(&["chromium"]) {
        return;
    }
    let backends: Vec<Backend> = ["one", "two"].map(Backend::answering).into();
    let proxy = Proxy::start(&[backends[0].addr, backends[1].addr]);
    let mut tab = Tab::open();
    tab.go(&format!("http://{}/services/test", proxy.running.admin.expect("an admin API")));
    assert_eq!(requests(proxy.addr, 20), 0);
    tab.until("document.querySelector('dl [data-f=turns]').textContent === '20'");
    assert_eq!(tab.ask("document.querySelectorAll('tbody tr').length"), 2);
    assert_eq!(tab.complaints(), Vec::<String>::new());
}
