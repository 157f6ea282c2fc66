/*
 * installation.hpp -- what SQL functions tell people about the installation of the library.
 */
#pragma once

namespace jobqueue {

/* Tells people where to look when no handler will run. C region. */
void hint_at_preloading();

} // namespace jobqueue
