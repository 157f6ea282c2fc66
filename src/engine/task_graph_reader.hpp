/*
 * task_graph_reader.hpp -- reads the graph of tasks that is passed to enqueue_flow() as jsonb. C++ region; throws Error
 * 22023 for what people wrote.
 */
#pragma once

#include "engine/task_graph.hpp"

namespace jobqueue {

/*
 * Returns a linked graph. Its tasks have no creator yet, and a payload of 0 if none was given. Outside of any Session.
 */
TaskGraph read_task_graph(Datum json);

} // namespace jobqueue
