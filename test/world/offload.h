/* What a card with offloads does for its guest's kernel: large packets are cut into frames, and frames of one stream are joined to a large packet. TCP over IPv4. */
#include <linux/virtio_net.h>
#include <stddef.h>
#include <stdint.h>

enum {
  /* Bytes of what the guest's kernel hands over: an IP packet of at most 65535 with its Ethernet header. */
  PACKET = 65536 + 14,
  /* Bytes that one such packet becomes at most, each of its frames with a length before it. */
  FRAMES = 1 << 20
};

/* Makes the frames of `packet` in `out`, each with four bytes of length before it (big-endian), valid checksums and, but for the last, without FIN and PSH. Gives their bytes. */
size_t cut(const struct virtio_net_hdr *h, const uint8_t *packet, size_t length, uint8_t *out);

/* Fills in the checksum that the guest's kernel left to its card. */
void seal(const struct virtio_net_hdr *h, uint8_t *packet, size_t length);

/* A frame for the guest: joined with those before it, or, if it cannot be, written after them. It has to stay as it is until `join_end`. */
void join(int tap, uint8_t *frame, size_t length);

/* Writes what is not written yet. */
void join_end(int tap);
