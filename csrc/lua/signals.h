/* The signals of a process that belong to a pager: to one pager at a time. */
#ifndef UFFD_LUA_SIGNALS_H
#define UFFD_LUA_SIGNALS_H

#include <stdbool.h>

#include "uffd_pager.h"

/*
 * Until a pager takes them, signals wait: one that ended this process after its front door was opened would end those
 * who have connected meanwhile. The main thread, before it has others.
 */
void uffd_lua_signals_hold(void);
/* SIGHUP reloads, SIGTERM and SIGINT drain, SIGPIPE is ignored. False: another pager has the signals. */
bool uffd_lua_signals_take(uffd_pager *pager);
bool uffd_lua_signals_taken(const uffd_pager *pager);
/* True when SIGTERM or SIGINT has come again while the pager drained. */
bool uffd_lua_signals_second(void);
/* Restores the dispositions that uffd_lua_signals_take() replaced; nothing if the pager does not have them. */
void uffd_lua_signals_return(uffd_pager *pager);

#endif
