//! The thread that computes: it does the core's jobs one after the other, in the order they are given.
//!
//! Waiting for a device or a disk happens here and holds up nobody else. A job that panics is a broken device in the core's
//! eyes: the executor is made anew, and the core goes back to its last snapshot.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use neuroshard_core::JobKind;
use neuroshard_proto::{Commitment, Fault, Job, RequestId};
use neuroshard_shaders::cpu::lower_priority;
use neuroshard_shaders::engine::Engine;
use neuroshard_shaders::executor::{Blobs, Executor};

use crate::throttle::Throttle;

/// Jobs that wait at most; a core has fewer open requests.
const JOBS_MAX: usize = 64;
/// How long [`Worker`] waits for a job under way when it is dropped; then it is left behind.
const GRACE: Duration = Duration::from_secs(2);
/// How often a rest is interrupted to see whether it is still wanted.
const REST: Duration = Duration::from_millis(20);

/// Makes an engine: at the start, and again after a job panicked.
pub type EngineFactory = Box<dyn FnMut() -> Result<Box<dyn Engine>, Fault> + Send>;

/// What became of a job.
#[derive(Debug)]
pub struct Answer {
    pub id: RequestId,
    pub job: JobKind,
    pub result: Result<Commitment, Fault>,
    pub took: Duration,
}

/// The computing thread.
#[derive(Debug)]
pub struct Worker {
    jobs: async_channel::Sender<(RequestId, Job)>,
    cancelled: Cancelled,
    thread: Option<JoinHandle<()>>,
}

type Cancelled = Arc<Mutex<BTreeSet<RequestId>>>;

impl Worker {
    /// Starts the thread with an engine; `factory` makes the next one if that breaks, and `throttle` slows both.
    /// `on_answer` is called on the thread.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(
        engine: Box<dyn Engine>,
        factory: EngineFactory,
        throttle: Throttle,
        blobs: impl Blobs + Send + 'static,
        on_answer: impl FnMut(Answer) + Send + 'static,
    ) -> Result<Self, std::io::Error> {
        let (jobs, inbox) = async_channel::bounded(JOBS_MAX);
        let cancelled = Cancelled::default();
        let work = Working {
            executor: Ok(Executor::new(engine)),
            factory,
            throttle,
            blobs,
            inbox,
            cancelled: Arc::clone(&cancelled),
            on_answer,
        };
        let run = move || {
            lower_priority();
            work.run();
        };
        let thread = thread::Builder::new().name("compute".into()).spawn(run)?;
        Ok(Self { jobs, cancelled, thread: Some(thread) })
    }

    /// Gives a job. Waits only if `JOBS_MAX` are ahead of it.
    pub async fn order(&self, id: RequestId, job: Job) {
        // The thread ends only when this is dropped.
        let _ = self.jobs.send((id, job)).await;
    }

    /// Takes back a job. One that is under way is finished, and its answer dropped by the core.
    pub fn cancel(&self, id: RequestId) {
        self.cancelled.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
    }

    /// Jobs that wait.
    pub fn waiting(&self) -> usize {
        self.jobs.len()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.jobs.close();
        let Some(thread) = self.thread.take() else { return };
        let end = Instant::now() + GRACE;
        while !thread.is_finished() && Instant::now() < end {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

struct Working<B, F> {
    /// The executor, or why there is none.
    executor: Result<Executor, Fault>,
    factory: EngineFactory,
    throttle: Throttle,
    blobs: B,
    inbox: async_channel::Receiver<(RequestId, Job)>,
    cancelled: Cancelled,
    on_answer: F,
}

impl<B: Blobs, F: FnMut(Answer)> Working<B, F> {
    fn run(mut self) {
        while let Ok((id, job)) = self.inbox.recv_blocking() {
            // Requests are numbered in order, so what was cancelled before this one will not come any more.
            let mut cancelled = self.cancelled.lock().unwrap_or_else(PoisonError::into_inner);
            let skip = cancelled.remove(&id) || self.inbox.is_closed();
            *cancelled = cancelled.split_off(&id);
            drop(cancelled);
            if !skip {
                let started = Instant::now();
                let result = self.attempt(&job).map(|made| self.throttle.slow(made));
                self.rest(self.throttle.rest(started.elapsed()));
                (self.on_answer)(Answer { id, job: JobKind::from(&job), result, took: started.elapsed() });
            }
        }
    }

    /// Rests, unless the node ends meanwhile.
    fn rest(&self, mut left: Duration) {
        while !left.is_zero() && !self.inbox.is_closed() {
            let now = left.min(REST);
            thread::sleep(now);
            left -= now;
        }
    }

    fn attempt(&mut self, job: &Job) -> Result<Commitment, Fault> {
        if self.executor.is_err() {
            self.executor = (self.factory)().map(Executor::new);
        }
        let executor = self.executor.as_mut().map_err(|fault| fault.clone())?;
        // Whatever a panic left half done is thrown away with the executor.
        match catch_unwind(AssertUnwindSafe(|| executor.run(job, &mut self.blobs))) {
            Ok(result) => result,
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no reason was given");
                let fault = Fault::device(&format!("a job panicked: {text}"));
                self.executor = Err(fault.clone());
                Err(fault)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use neuroshard_core::proto::{Hash, LayerIndex, LayerRange, ModelSpec, Preset, Schedule, Step, ops};
    use neuroshard_proto::F32;
    use neuroshard_shaders::engine::{Entry, Part, TokenBatch, Trained};
    use neuroshard_shaders::optimizer::Rates;
    use neuroshard_shaders::reference::Reference;
    use neuroshard_shaders::values::{Shape, Values};

    use super::*;

    struct NoBlobs;

    impl Blobs for NoBlobs {
        fn get(&mut self, hash: &Hash) -> Result<Vec<u8>, Fault> {
            Err(Fault::BlobMissing { hash: *hash })
        }

        fn put(&mut self, _bytes: &[u8]) -> Result<Hash, Fault> {
            Err(Fault::DiskFull { needed: 1 })
        }

        fn put_transient(&mut self, bytes: Vec<u8>) -> Result<Hash, Fault> {
            self.put(&bytes)
        }
    }

    fn benchmark() -> Job {
        let (model, _) = Preset::Nano.specs();
        Job::Benchmark { model: ModelSpec { hidden: 32, ffn: 32, ..model }, sequence: 4, warmup: 0, runs: 1 }
    }

    fn start(engine: Box<dyn Engine>) -> (Worker, mpsc::Receiver<Answer>) {
        start_throttled(engine, Throttle::default())
    }

    fn start_throttled(engine: Box<dyn Engine>, throttle: Throttle) -> (Worker, mpsc::Receiver<Answer>) {
        let (sender, answers) = mpsc::channel();
        let factory = Box::new(|| Ok(Box::new(Reference::<false>::default()) as Box<dyn Engine>));
        let worker =
            Worker::start(engine, factory, throttle, NoBlobs, move |answer| sender.send(answer).unwrap()).unwrap();
        (worker, answers)
    }

    fn order(worker: &Worker, id: u64, job: Job) {
        futures_lite::future::block_on(worker.order(RequestId(id), job));
    }

    #[test]
    fn jobs_are_answered_in_order() {
        let (worker, answers) = start(Box::new(Reference::<false>::default()));
        for id in 0..5 {
            order(&worker, id, if id == 3 { Job::Snapshot { step: Step(7) } } else { benchmark() });
        }
        for id in 0..5 {
            let answer = answers.recv().unwrap();
            assert_eq!(answer.id, RequestId(id));
            let wrong_step = matches!(answer.result, Err(Fault::WrongStep { at: None, .. }));
            assert_eq!((answer.job == JobKind::Snapshot, wrong_step), (id == 3, id == 3));
        }
    }

    #[test]
    fn a_throttled_job_takes_its_own_time_and_the_rest() {
        let throttle: Throttle = "50".parse().unwrap();
        let (worker, answers) = start_throttled(Box::new(Reference::<false>::default()), throttle);
        order(&worker, 0, benchmark());
        let answer = answers.recv().unwrap();
        let Ok(Commitment::Benchmark { layer_us }) = answer.result else { panic!("{answer:?}") };
        // The device's own figure times fifty, within a time that is fifty times what all of the benchmark took.
        assert!(layer_us >= 50 && layer_us.is_multiple_of(50), "{layer_us}");
        assert!(answer.took >= Duration::from_micros(layer_us), "{answer:?}");
    }

    #[test]
    fn a_node_that_ends_does_not_wait_for_a_rest() {
        let throttle: Throttle = "10000".parse().unwrap();
        let (sign, wait) = mpsc::channel();
        let (worker, answers) = start_throttled(Box::new(Breaking(wait)), throttle);
        order(&worker, 0, benchmark());
        // The job takes a moment, and its rest would take ten thousand.
        thread::sleep(Duration::from_millis(20));
        sign.send(()).unwrap();
        drop(worker);
        let answer = answers.recv().unwrap();
        assert!(answer.took < Duration::from_secs(100), "{answer:?}");
    }

    /// An engine whose first benchmark waits for a sign and panics.
    struct Breaking(mpsc::Receiver<()>);

    impl Engine for Breaking {
        fn describe(&self) -> String {
            "breaking".into()
        }
        fn allocate(&mut self, _: &ModelSpec, _: LayerRange) -> Result<(), Fault> {
            unreachable!()
        }
        fn write(&mut self, _: Part, _: LayerIndex, _: &[f32]) -> Result<(), Fault> {
            unreachable!()
        }
        fn read(&mut self, _: Part, _: LayerIndex, _: &mut [f32]) -> Result<(), Fault> {
            unreachable!()
        }
        fn train(&mut self, _: &TokenBatch, _: bool, _: F32) -> Result<Trained, Fault> {
            unreachable!()
        }
        fn clear(&mut self) -> Result<(), Fault> {
            unreachable!()
        }
        fn forward(&mut self, _: usize, _: Entry<'_>, _: &mut [f32]) -> Result<bool, Fault> {
            unreachable!()
        }
        fn backward(&mut self, _: usize, _: &[f32], _: Option<&mut [f32]>) -> Result<bool, Fault> {
            unreachable!()
        }
        fn turn(&mut self, _: Entry<'_>, _: &[u32], _: Option<&mut [f32]>) -> Result<Option<i64>, Fault> {
            unreachable!()
        }
        fn norms(&mut self, _: F32) -> Result<Option<Vec<F32>>, Fault> {
            unreachable!()
        }
        fn evaluate(&mut self, _: &TokenBatch) -> Result<Option<i64>, Fault> {
            unreachable!()
        }
        fn step(&mut self, _: F32, _: F32, _: &Schedule) -> Result<(), Fault> {
            unreachable!()
        }
        fn apply(&mut self, _: &ops::Call, _: &Shape, _: &mut Values) -> Result<bool, Fault> {
            unreachable!()
        }
        fn sum_squares(&mut self, _: &[f32], _: F32) -> Result<Option<F32>, Fault> {
            unreachable!()
        }
        fn adamw(&mut self, _: &Rates, _: bool, _: [&mut [f32]; 3], _: &[f32]) -> Result<(), Fault> {
            unreachable!()
        }
        fn benchmark(&mut self, _: &ModelSpec, _: u32, _: u32, _: u32) -> Result<u64, Fault> {
            self.0.recv().unwrap();
            panic!("the fan fell off")
        }
    }

    #[test]
    fn a_panic_is_a_fault_of_the_device_and_the_next_job_runs() {
        let (sign, wait) = mpsc::channel();
        let (worker, answers) = start(Box::new(Breaking(wait)));
        order(&worker, 0, benchmark());
        order(&worker, 1, benchmark());
        sign.send(()).unwrap();
        let fault = answers.recv().unwrap().result.unwrap_err();
        assert_eq!(fault, Fault::device("a job panicked: the fan fell off"));
        assert!(answers.recv().unwrap().result.is_ok());
    }

    #[test]
    fn a_cancelled_job_is_not_started() {
        let (sign, wait) = mpsc::channel();
        let (worker, answers) = start(Box::new(Breaking(wait)));
        for id in 0..4 {
            order(&worker, id, benchmark());
        }
        worker.cancel(RequestId(1));
        worker.cancel(RequestId(2));
        while worker.waiting() > 3 {
            thread::yield_now();
        }
        sign.send(()).unwrap();
        assert_eq!(answers.recv().unwrap().id, RequestId(0));
        assert_eq!(answers.recv().unwrap().id, RequestId(3));
        assert!(worker.cancelled.lock().unwrap().is_empty());
    }
}
