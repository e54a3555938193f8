//! Headless Chromium, steered by WebDriver.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use base64::Engine;
use serde_json::{Value, json};

/// A browser; it ends when this is dropped.
pub struct Browser {
    driver: Child,
    session: String,
}

impl Browser {
    /// Starts Debian's Chromium (packages chromium, chromium-driver) without a window.
    pub fn start() -> Self {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver: apt-get install chromium chromium-driver");
        let output = BufReader::new(driver.stdout.take().unwrap());
        let port = output.lines().map_while(Result::ok).find_map(|line| {
            let (_, port) = line.split_once("started successfully on port ")?;
            port.trim_end_matches('.').parse::<u16>().ok()
        });
        let server = format!("http://127.0.0.1:{}", port.expect("a port"));
        let options = json!({"capabilities": {"alwaysMatch": {
            "goog:chromeOptions": {"args": [
                "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                "--window-size=1100,4000",
            ]},
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let answer = post(&format!("{server}/session"), &options);
        let id = answer["sessionId"].as_str().unwrap();
        Self {
            driver,
            session: format!("{server}/session/{id}"),
        }
    }

    fn order(&self, what: &str, how: &Value) -> Value {
        post(&format!("{}/{what}", self.session), how)
    }

    /// Opens a file.
    pub fn open(&self, page: &Path) {
        self.order("url", &json!({"url": format!("file://{}", page.display())}));
    }

    /// Runs the body of a function in the page.
    pub fn script(&self, body: &str) -> Value {
        self.order("execute/sync", &json!({"script": body, "args": []}))
    }

    /// Shows the page as a medium and a colour scheme have it.
    pub fn look_as(&self, media: &str, scheme: &str) {
        let feature = json!({"name": "prefers-color-scheme", "value": scheme});
        let params = json!({"media": media, "features": [feature]});
        let command = json!({"cmd": "Emulation.setEmulatedMedia", "params": params});
        self.order("goog/cdp/execute", &command);
    }

    /// What the page looks like, as PNG.
    pub fn screenshot(&self) -> Vec<u8> {
        let answer = get(&format!("{}/screenshot", self.session));
        let text = answer.as_str().unwrap();
        base64::engine::general_purpose::STANDARD
            .decode(text)
            .unwrap()
    }

    /// All that the page's console says.
    pub fn complaints(&self) -> Vec<Value> {
        let said = self.order("se/log", &json!({"type": "browser"}));
        said.as_array().unwrap().clone()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Ends Chromium; a driver that is gone has ended it already.
        let _ = ureq::delete(&self.session).call();
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

fn post(url: &str, body: &Value) -> Value {
    let mut answer = ureq::post(url).send_json(body).unwrap();
    answer.body_mut().read_json::<Value>().unwrap()["value"].take()
}

fn get(url: &str) -> Value {
    let mut answer = ureq::get(url).call().unwrap();
    answer.body_mut().read_json::<Value>().unwrap()["value"].take()
}
