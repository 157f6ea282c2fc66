/*
 * sanitize.cpp -- linked into each library that is built with SANITIZE. A fault that is found ends the process by a
 * crash, because an exit could look like an orderly end. The environment variable UBSAN_OPTIONS does not work: the
 * runtime reads it at the first fault, and by then the server has written the process's title over it.
 */
extern "C" __attribute__((visibility("default"))) const char *__ubsan_default_options() {
	return "abort_on_error=1:print_stacktrace=1";
}
