/**
 * Keeps SIGUSR1 from opening Node's debugger, on a port of the loopback where any local user may run code in the
 * process. Each of our programs imports this first.
 *
 * Limits: while Node itself starts, it opens the debugger.
 */
process.on('SIGUSR1', () => {});
