//! `neuroshard leave`: asks the node that runs to hand over and stop, and tells how far it is.

use std::thread;
use std::time::Duration;

use neuroshard_host::api::{Client, ClientError, running_status};
use neuroshard_host::directory::Paths;
use neuroshard_host::home::Visit;
use neuroshard_host::status::Status;

use crate::display::count;
use crate::failure::Failure;
use crate::say::{aside, out};
use crate::settings::Settings;

const GLANCE: Duration = Duration::from_millis(500);
/// Looks in a row that find nobody: a node that is busy for a moment has not gone.
const GONE_AFTER: u32 = 3;

pub(crate) fn leave(settings: &Settings) -> Result<(), Failure> {
    let root = settings.data_dir()?;
    let paths = Paths::of_existing(&root)?;
    let before = running_status(&paths).ok_or_else(|| Failure::new(ClientError::NotRunning))?;
    ask(&paths).map_err(Failure::new)?;
    let quiet = settings.json.unwrap_or(false);
    watch(&paths, &before, quiet);
    let visit = Visit::open(&root)?;
    // What counts is what the ledger says: a node that was killed meanwhile, or got no block decided, has not left.
    let core = &visit.core;
    if core.ledger().quorum_of(&core.config().node).is_some() {
        return Err(Failure::new(
            "the node ended before it had handed over: it is a member of its quorum still. The others miss it after six \
             seconds and go back to the newest step that all had posted; `neuroshard run` brings it back.",
        ));
    }
    let status = visit.status();
    let saved = status.saved.as_ref().map(|saved| saved.step);
    if quiet {
        out!("{}", serde_json::json!({ "left": true, "step": status.step, "saved": saved }));
    } else {
        let saved = saved.map_or("nothing was saved".to_owned(), |step| format!("saved at step {}", count(step)));
        out!("the node has stopped, {saved}; `neuroshard run` takes part again");
    }
    Ok(())
}

/// Asks until the node answers, or has ended after it took the question.
fn ask(paths: &Paths) -> Result<(), ClientError> {
    let mut taken = false;
    loop {
        match Client::find(paths).and_then(|client| client.leave()) {
            Err(ClientError::Silent) => taken = true,
            Err(ClientError::NotRunning) if taken => return Ok(()),
            answer => return answer,
        }
        thread::sleep(GLANCE);
    }
}

/// Says what happens until the node is gone.
fn watch(paths: &Paths, before: &Status, quiet: bool) {
    let tell = |text: &str| {
        if !quiet {
            aside!("{text}");
        }
    };
    let mut member = before.quorum.is_some();
    if member {
        tell(
            "waits for a step that all members save, then leaves its quorum; this takes a minute or two. The node goes on \
             with it if you interrupt this command.",
        );
    }
    let mut missed = 0;
    while missed < GONE_AFTER {
        thread::sleep(GLANCE);
        match running_status(paths) {
            None => missed += 1,
            Some(status) => {
                missed = 0;
                if member && status.quorum.is_none() {
                    member = false;
                    tell("it has left, and gives its stages to those who take them up");
                }
            }
        }
    }
}
