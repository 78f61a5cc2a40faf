//! A container that tries all known ways out, in each way of being started: what the kernel answers is compared
//! with a table, and what the host has must not be reached.

mod answers;
mod places;
mod programs;
mod world;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
    thread,
};

use answers::{Rights, may_answer, unused};
use places::Place;
use world::World;

/// What is wrong, and where: the same in many places is one line.
#[derive(Default)]
struct Findings {
    wrong: BTreeMap<String, Vec<String>>,
    tried: BTreeSet<String>,
}

impl Findings {
    fn add(&mut self, what: String, place: &Place) {
        self.wrong.entry(what).or_default().push(place.name.clone());
    }

    fn none(self) {
        let lines: Vec<String> = self
            .wrong
            .iter()
            .map(|(what, places)| format!("{what}\n      in {}", places.join(", ")))
            .collect();
        assert!(lines.is_empty(), "what is not as it should be:\n  {}", lines.join("\n  "));
        assert_eq!(unused(self.tried.iter()), [""; 0], "what was never tried");
    }
}

/// Compares what the probe printed in a place with the table.
fn judge(findings: &mut Findings, world: &World, place: &Place, output: &str) {
    // Typing for the terminal, where it may be done, shows an empty line.
    let lines = output.lines().filter(|line| !line.is_empty());
    let mut lines: Vec<(&str, &str)> =
        lines.map(|line| line.split_once(' ').unwrap_or((line, ""))).collect();
    if lines.pop() != Some(("end", "ok")) {
        findings.add(format!("the probe did not come to its end: {output}"), place);
    }
    let root = place.rights == Rights::Privileged && !place.own_ids;
    for (name, answer) in lines {
        findings.tried.insert(name.to_owned());
        // Root of the host opens any file of it by its number.
        if answer.contains(&world.secret) && !(root && name == "open-by-handle") {
            findings.add(format!("{name} has reached the secret of the host"), place);
        }
        match may_answer(name, answer, place) {
            Some(true) => {}
            Some(false) => findings.add(format!("{name}: {answer}"), place),
            None => findings.add(format!("{name}: {answer}, which is not in the table"), place),
        }
    }
}

/// Tries everything in all of these places, four at a time.
fn try_all(places: Vec<Vec<Place>>) {
    let world = World::start();
    let findings = Mutex::new(Findings::default());
    thread::scope(|scope| {
        for group in places {
            let (findings, world) = (&findings, &world);
            scope.spawn(move || {
                for place in group {
                    let output = place.run(world);
                    judge(&mut findings.lock().expect("no panic"), world, &place, &output);
                }
            });
        }
    });
    findings.into_inner().expect("no panic").none();
    world.finish();
}

#[test]
fn no_known_way_leads_out_of_a_container_however_a_process_was_started_in_it() {
    try_all(places::confined());
}

#[test]
fn a_privileged_container_reaches_what_the_table_says_and_no_more() {
    try_all(places::privileged());
}
