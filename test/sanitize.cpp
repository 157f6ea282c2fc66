/*
 * sanitize.cpp -- linked into each library that is built with SANITIZE: how a fault that is found ends the process. As a
 * crash, not as an exit, which might pass for an orderly one. UBSAN_OPTIONS in the environment comes too late: the runtime
 * reads it at the first fault, when the server has long written the process's title over it.
 */
extern "C" __attribute__((visibility("default"))) const char *__ubsan_default_options() {
	return "abort_on_error=1:print_stacktrace=1";
}
