//! Work on many things, shared among the processors.

use std::thread;

/// Fewer are not worth a thread.
pub(crate) const WORTH_A_THREAD: usize = 512;

/// Takes `items` apart into as many shares as there are processors, works on each, and returns what each gave, in order.
pub(crate) fn in_shares<T: Sync, R: Send>(items: &[T], work: impl Fn(&[T]) -> R + Sync) -> Vec<R> {
    // Something for each, of no size.
    let mut places = vec![(); items.len()];
    with_places(items, &mut places, |share, _| work(share))
}

/// The same, where something comes of each that has its place: `places` is as long as `items`, and each share gets its own part. What
/// is many is then in memory once.
pub(crate) fn with_places<T: Sync, P: Send, R: Send>(
    items: &[T],
    places: &mut [P],
    work: impl Fn(&[T], &mut [P]) -> R + Sync,
) -> Vec<R> {
    let processors = match items.len() {
        ..=WORTH_A_THREAD => 1,
        _ => thread::available_parallelism().map_or(1, usize::from),
    };
    let share = items.len().div_ceil(processors).max(WORTH_A_THREAD);
    let mut shares: Vec<_> = items.chunks(share).zip(places.chunks_mut(share)).collect();
    // The last share is this thread's own.
    let Some((own, own_places)) = shares.pop() else {
        return Vec::new();
    };
    let work = &work;
    thread::scope(|scope| {
        let others: Vec<_> = shares
            .into_iter()
            .map(|(share, places)| scope.spawn(move || work(share, places)))
            .collect();
        let own = work(own, own_places);
        let mut done = Vec::with_capacity(others.len() + 1);
        for other in others {
            match other.join() {
                Ok(result) => done.push(result),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        done.push(own);
        done
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thing_is_worked_on_once_and_results_are_in_order() {
        for count in [
            0,
            1,
            WORTH_A_THREAD,
            WORTH_A_THREAD + 1,
            10 * WORTH_A_THREAD + 3,
        ] {
            let items: Vec<usize> = (0..count).collect();
            assert_eq!(in_shares(&items, <[usize]>::to_vec).concat(), items);
            let mut places = vec![None; count];
            let sums = with_places(&items, &mut places, |share, places| {
                for (item, place) in share.iter().zip(places) {
                    assert_eq!(place.replace(*item), None);
                }
                share.iter().sum::<usize>()
            });
            assert_eq!(sums, in_shares(&items, |share| share.iter().sum::<usize>()));
            assert!(places.into_iter().eq(items.into_iter().map(Some)));
        }
    }
}
