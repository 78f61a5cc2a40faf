//! Real containers, seen from inside: each test plays the launcher, builds a plan by hand and reads what
//! the command says. They need root.
//!
//! The harness is libtest-mimic, which can run a test on the main thread: a launcher forks, and a fork is
//! refused where there is a second thread.

#![allow(clippy::disallowed_methods)]

mod container;
mod join;
mod world;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

macro_rules! trials {
    ($($module:ident: $($test:ident),+;)+) => {
        vec![$($({
            let name = concat!(stringify!($module), "::", stringify!($test));
            Trial::test(name, move || {
                world::in_world(name, $module::$test);
                Ok(())
            })
        }),+),+]
    };
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, all()).exit_code()
}

fn all() -> Vec<Trial> {
    trials! {
        container:
            a_default_container_is_alone_confined_and_whole,
            a_failed_step_is_named_and_nothing_runs,
            a_paused_container_waits_and_holds_nothing_but_its_pipes,
            a_process_is_born_in_its_cgroup_which_is_the_root_of_its_view,
            a_reaper_reaps_passes_signals_on_and_ends_as_its_child,
            a_target_that_leads_out_of_the_root_by_a_link_ends_inside,
            a_terminal_is_the_controlling_one_and_the_console,
            a_user_has_its_own_ids_and_no_capabilities,
            a_user_namespace_maps_ids_and_owns_its_overlay;
        join:
            a_process_of_the_host_is_entered_with_its_root_and_cwd_and_without_confinement,
            a_process_that_joins_a_user_namespace_is_its_user_and_owns_its_stdio,
            a_process_that_joins_is_where_its_target_is_and_as_confined,
            namespaces_of_another_container_are_joined_also_its_user_namespace;
    }
}
