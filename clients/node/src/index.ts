export { App, type Handler, type Runnable } from './app.js';
export type { Conninfo } from './connect.js';
export {
	enqueue, enqueueMany, type EnqueueManyOptions, type EnqueueOptions, enqueueUnique, type EnqueueUniqueOptions,
	type TaskId,
} from './enqueue.js';
export { ClaimLost, Discard, RetryIn, Snooze, WorkerStopped } from './errors.js';
export type { Duration, Queryable } from './sql.js';
export type { Task } from './task.js';
export { type TaskRow, waitFor } from './task_row.js';
export { Worker, type WorkerOptions } from './worker.js';
