/*
 * What bindgen reads. uwsgi.h itself is never kept here: build.rs asks the
 * target server for its own copy (`uwsgi --dot-h`).
 */
#include <uwsgi.h>

/* The server's one global, which its header leaves to each plugin to declare. */
extern struct uwsgi_server uwsgi;
