//! Headless Chromium, and what tests/page/probe.js finds in a page there.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Dark,
    Light,
}

/// What the probe finds where the page is so many pixels wide; nothing, loudly, where there is no Chromium.
pub fn look(page: &str, width: u32, scheme: Scheme) -> Option<Value> {
    let Some(browser) = browser() else {
        let required = std::env::var("WGPU_OPTIM_REQUIRE_CHROMIUM").is_ok_and(|value| value == "1");
        assert!(!required, "WGPU_OPTIM_REQUIRE_CHROMIUM=1, but there is no Chromium to open the page in");
        eprintln!("\n*** SKIPPED: no Chromium to open the page in; scripts/test.sh installs one on Debian ***\n");
        return None;
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("harness.html"), harness(page, width)).expect("a file that can be written");
    let dump = dump(browser, folder.path(), scheme);
    let json = dump.split_once("<pre>").and_then(|(_, rest)| rest.split_once("</pre>")).map(|(json, _)| json);
    let found = serde_json::from_str(json.unwrap_or_else(|| panic!("no result in: {dump}")));
    Some(found.unwrap_or_else(|error| panic!("{error} in: {dump}")))
}

fn browser() -> Option<&'static str> {
    let runs = |name: &&str| {
        let version = Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        version.is_ok_and(|status| status.success())
    };
    ["chromium", "chromium-browser", "google-chrome"].into_iter().find(runs)
}

/// The page in a frame of this width: a window is never as narrow as a phone.
fn harness(page: &str, width: u32) -> String {
    let page = page.replace('&', "&amp;").replace('"', "&quot;");
    let script = include_str!("probe.js");
    format!(
        "<!DOCTYPE html><meta charset=\"utf-8\"><iframe style=\"border:0;width:{width}px;height:800px\" \
         srcdoc=\"{page}\"></iframe><pre></pre><script>{script}</script>"
    )
}

/// The document after its scripts ran.
fn dump(browser: &str, folder: &Path, scheme: Scheme) -> String {
    let path = folder.join("dump.html");
    let options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        // Scroll bars that take room are no phone's.
        "--hide-scrollbars",
        "--dump-dom",
    ];
    let scheme = scheme as u8;
    let mut child = Command::new(browser)
        .args(options)
        .arg(format!("--blink-settings=preferredColorScheme={scheme}"))
        .arg(format!("--user-data-dir={}", folder.join("profile").display()))
        .arg(format!("file://{}", folder.join("harness.html").display()))
        .stdout(File::create(&path).expect("a file that can be written"))
        .stderr(Stdio::null())
        .spawn()
        .expect("Chromium starts");
    let started = Instant::now();
    while child.try_wait().expect("a child").is_none() {
        if started.elapsed() > Duration::from_secs(120) {
            let _ = child.kill();
            panic!("Chromium took more than two minutes");
        }
        sleep(Duration::from_millis(20));
    }
    fs::read_to_string(&path).expect("a dump")
}
