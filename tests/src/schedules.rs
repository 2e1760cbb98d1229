//! Schedules to the millisecond: each breaks a promise when the rule that it is named for is left out.
//!
//! They move a few [`Shards`](crate::shards::Shards) by hand. What takes an exact moment is shown here; what comes about by
//! itself in many runs is left to the simulator.

use synod_core::planted::Bug;

mod ballots;
mod checkpoints;
mod frames;
mod growth;
mod idle;
mod lane;
mod load;
mod voters;

/// A schedule. It panics when what it is named for does not hold.
pub struct Schedule {
    /// What holds.
    pub name: &'static str,
    /// Carries it out.
    pub run: fn(),
    /// The planted bugs that it shows.
    pub shows: &'static [Bug],
}

/// Schedules, each with the bugs that it shows.
macro_rules! schedules {
    ($($run:ident $(shows $($bug:ident)+)?,)+) => {
        &[$($crate::schedules::Schedule {
            name: stringify!($run),
            run: $run,
            shows: &[$($(synod_core::planted::Bug::$bug,)+)?],
        },)+]
    };
}
pub(crate) use schedules;

/// All schedules.
pub fn all() -> impl Iterator<Item = &'static Schedule> {
    let parts = [ballots::SCHEDULES, checkpoints::SCHEDULES, frames::SCHEDULES, growth::SCHEDULES, idle::SCHEDULES];
    parts
        .into_iter()
        .chain([lane::SCHEDULES, load::SCHEDULES, voters::SCHEDULES, crate::leases::SCHEDULES])
        .chain([crate::lone::SCHEDULES, crate::moved::SCHEDULES])
        .flatten()
}
