//! What a program tells its allocator.

/// As large as the buffers of all streams together, and below the 32 MiB up to which it has an effect.
const LESSON: usize = 16 << 20;

/// Has freed buffers kept for the next ones rather than given back to the kernel at once.
///
/// A stream allocates and frees buffers of some 100 KiB all the time. The GNU C library maps and
/// unmaps each of them, so that every page of it is faulted in anew: a third of the CPU time of a
/// stream. It learns from what is freed, though: memory of up to the size of the largest mapped block
/// that was ever freed is kept from then on, twice as much at the end of the heap ("dynamic mmap
/// threshold", mallopt(3)). So one such block is freed here. It is never touched, and costs two system
/// calls; other allocators are indifferent to it.
pub fn keep_buffers() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(LESSON)));
}
