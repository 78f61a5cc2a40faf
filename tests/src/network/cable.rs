//! What carries packets from one device to another, not as well as it could.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tappers::Tun;

/// What a link with a rate holds of packets that wait for their turn, as the time to send them. What
/// comes beyond is dropped, as a router does.
const QUEUE: Duration = Duration::from_millis(100);
/// How often a thread looks whether the cable was cut.
const LOOK: Duration = Duration::from_millis(50);

/// The faults of a cable, of both directions.
#[derive(Debug, Default)]
pub struct Cable {
    delay_us: AtomicU64,
    loss_percent: AtomicU32,
    megabits: AtomicU64,
    blackhole: AtomicBool,
    cut: AtomicBool,
    /// The most bytes that were under way at once, in each direction.
    most: [AtomicUsize; 2],
}

impl Cable {
    pub fn set_delay(&self, one_way: Duration) {
        let micros = u64::try_from(one_way.as_micros()).expect("a delay is no age");
        self.delay_us.store(micros, Ordering::Relaxed);
    }

    pub fn set_loss(&self, percent: u32) {
        self.loss_percent.store(percent, Ordering::Relaxed);
    }

    pub fn set_rate(&self, megabits: u64) {
        self.megabits.store(megabits, Ordering::Relaxed);
    }

    pub fn set_blackhole(&self, on: bool) {
        self.blackhole.store(on, Ordering::Relaxed);
    }

    /// The most bytes that were under way at once in a direction.
    pub fn most_under_way(&self, direction: usize) -> usize {
        self.most[direction].load(Ordering::Relaxed)
    }

    /// Ends both directions.
    pub fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }

    /// Carries packets of one direction, 0 or 1, until the cable is cut. Neither device blocks.
    pub fn carry(&self, from: &Tun, to: &Tun, mtu: usize, direction: usize) {
        let mut dice = Dice(direction as u64);
        let mut under_way: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
        let mut bytes = 0;
        let mut sent_at = Instant::now();
        let mut buffer = vec![0; mtu];
        while !self.cut.load(Ordering::Relaxed) {
            // A device that is down has nothing to read.
            while let Ok(length) = from.recv(&mut buffer) {
                let now = Instant::now();
                let lost = dice.percent() < self.loss_percent.load(Ordering::Relaxed);
                if lost || self.blackhole.load(Ordering::Relaxed) {
                    continue;
                }
                let turn = sent_at.max(now);
                if turn - now > QUEUE {
                    continue;
                }
                sent_at = turn + self.time_to_send(length);
                let delay = Duration::from_micros(self.delay_us.load(Ordering::Relaxed));
                under_way.push_back((sent_at + delay, buffer[..length].to_vec()));
                bytes += length;
                self.most[direction].fetch_max(bytes, Ordering::Relaxed);
                if under_way.front().is_some_and(|(due, _)| *due <= now) {
                    break;
                }
            }
            let now = Instant::now();
            while under_way.front().is_some_and(|(due, _)| *due <= now) {
                let Some((_, packet)) = under_way.pop_front() else { break };
                bytes -= packet.len();
                if !self.blackhole.load(Ordering::Relaxed) {
                    // To a device that is down: lost, as on a real one.
                    let _ = to.send(&packet);
                }
            }
            let next =
                under_way.front().map_or(LOOK, |(due, _)| due.saturating_duration_since(now));
            let next = next.min(LOOK);
            let next = Timespec { tv_sec: 0, tv_nsec: i64::from(next.subsec_nanos()) };
            // A device that is down shows an error, which must not become a busy loop; and an
            // interrupted wait is a short one.
            let mut fds = [PollFd::new(from, PollFlags::IN)];
            let _ = poll(&mut fds, Some(&next));
            if fds[0].revents().contains(PollFlags::ERR) {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    fn time_to_send(&self, length: usize) -> Duration {
        match self.megabits.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            megabits => Duration::from_nanos(length as u64 * 8000 / megabits),
        }
    }
}

/// The same numbers in each run.
struct Dice(u64);

impl Dice {
    /// From 0 to 99.
    fn percent(&mut self) -> u32 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % 100) as u32
    }
}
