/** Why a port-forwarding rule has no effect though its port is open: it will once the guest has an address. */
export const NO_ADDRESS_YET = 'the guest has no address yet';
