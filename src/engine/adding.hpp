/*
 * adding.hpp -- announces a task that was added. C++ region.
 */
#pragma once

#include "engine/store/adding.hpp"

namespace jobqueue {

/* Makes the commit announce that the task is there, or when it will be due. */
void note_added(const store::NewTask &task, const store::Added &added);

} // namespace jobqueue
