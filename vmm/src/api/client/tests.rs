use std::os::unix::net::UnixListener;
use std::thread;

use tempfile::TempDir;

use super::*;

/// A folder with machines that answer as `answer` says; what it returns is the answer to a
/// request, or nothing is ever answered.
fn machines(answers: &[(&str, Option<&'static str>)]) -> (TempDir, Vec<Client>) {
    let folder = tempfile::tempdir().unwrap();
    let run_dir = RunDir::new(folder.path());
    for &(name, answer) in answers {
        let listener = UnixListener::bind(run_dir.socket(&name.parse().unwrap())).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut bytes = [0; 4096];
            let _ = stream.read(&mut bytes).unwrap();
            let Some(body) = answer else {
                // Until the client has gone.
                let _ = stream.read(&mut bytes);
                return;
            };
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n";
            stream
                .write_all(format!("{head}{body}").as_bytes())
                .unwrap();
        });
    }
    let clients = Client::all(&run_dir).unwrap();
    (folder, clients)
}

const INFO: &str = "{\"name\": \"victim\", \"pid\": 1, \"version\": \"\\u001b[2Jx\\u009b\", \
    \"state\": \"running\", \"launching\": false, \"uptime_ms\": 1, \"mem_bytes\": 1, \"pv\": \"all\"}";

#[test]
fn one_that_is_silent_keeps_nobody_elses_answer_back() {
    let (_folder, clients) = machines(&[("a", Some(INFO)), ("b", None), ("c", Some(INFO))]);
    let answers = Client::get_all::<Info>(&clients, "/v1/info");
    let names: Vec<_> = answers.iter().map(|a| a.name.to_string()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    let said: Vec<_> = answers.iter().map(|a| a.said.is_ok()).collect();
    assert_eq!(said, [true, false, true]);
    let error = answers[1].said.as_ref().unwrap_err().to_string();
    assert!(error.contains("machine b does not answer"), "{error}");
    // The kernel tells who is silent.
    let process = answers[1].process.as_ref().unwrap();
    assert_eq!(process.pid, std::process::id());
    assert!(!process.has_ended());
}

#[test]
fn who_a_machine_is_it_does_not_say_itself() {
    let (_folder, clients) = machines(&[("liar", Some(INFO))]);
    let info: Info = clients[0].get("/v1/info").unwrap();
    assert_eq!((&*info.name, info.pid), ("liar", std::process::id()));
    assert_eq!(info.version, "\\u{1b}[2Jx\\u{9b}");
}

#[test]
fn what_is_no_answer_is_an_error_and_not_the_end() {
    let strange = ["{}", "[", "\u{1b}[2J", ""];
    for text in strange {
        let (_folder, clients) = machines(&[("odd", Some(text))]);
        let error = clients[0].get::<Info>("/v1/info").unwrap_err().to_string();
        assert!(error.contains("odd answers what"), "{error}");
        assert!(!error.contains(char::is_control), "{error}");
    }
}

#[test]
fn a_machine_that_is_gone_has_no_answer() {
    let (folder, mut clients) = machines(&[("here", Some(INFO))]);
    clients.push(Client::new(
        &RunDir::new(folder.path()),
        &"gone".parse().unwrap(),
    ));
    let answers = Client::get_all::<Info>(&clients, "/v1/info");
    assert_eq!(answers.len(), 1);
    let gone = clients[1].get::<Info>("/v1/info").unwrap_err();
    assert_eq!(gone.kind(), crate::Kind::Gone);
}
