/* What the functions of fair.c need: the fields that they use, and a tree without colours. */
#include <stdlib.h>
struct rb_node { struct rb_node *rb_left, *rb_right; };
struct rb_root { struct rb_node *rb_node; };
struct rb_root_cached { struct rb_root rb_root; };
struct load_weight { unsigned long weight; u32 inv_weight; };
struct sched_entity {
	struct load_weight load;
	struct rb_node run_node;
	u64 deadline, min_vruntime, slice, vruntime;
	s64 vlag;
	unsigned char on_rq, custom_slice, rel_deadline, lends, sched_delayed;
};
struct rq;
struct task_struct {
	struct mm_struct *mm;
	struct sched_entity se;
};
struct cfs_rq {
	s64 avg_vruntime;
	u64 avg_load, zero_vruntime;
	struct sched_entity *curr, *next;
	struct rb_root_cached tasks_timeline;
	unsigned int nr_running;
	u8 next_by, lent;
	unsigned long lent_at;
};
enum next_by { NEXT_HINT, NEXT_LENT, NEXT_WOKEN };

#define container_of(p, t, m)	((t *)((char *)(p) - offsetof(t, m)))
#define rb_entry(p, t, m)	container_of(p, t, m)
#define __node_2_se(node)	rb_entry((node), struct sched_entity, run_node)
#define sched_feat(x)		1
#define se_is_idle(se)		0
#define normal_policy(policy)	1
#define noinline		__attribute__((noinline))
/* One level: all compete on this queue. */
#define for_each_sched_entity(se) for (int once = 1; once; once = 0)
#define cfs_rq_of(se)		the_queue
#define update_curr(cfs_rq)	((void)0)
/* Nobody's dequeue is delayed here. */
#define dequeue_entities(rq, se, flags)	abort()
#define WARN_ON_ONCE(x)		(x)
#define ENQUEUE_INITIAL		0x80
#define TICK_NSEC		4000000ULL
#define WMULT_CONST		(~0U)
#define WMULT_SHIFT		32
#define NICE_0_LOAD		(1L << 20)
#define scale_load_down(w)	\
	({ unsigned long __w = (w); if (__w) __w = max(2UL, __w >> 10); __w; })

#define time_before_eq(a, b)	((long)((b) - (a)) >= 0)

static unsigned long jiffies = 4294667296UL;
static struct cfs_rq *the_queue;
static unsigned int sysctl_sched_base_slice = 2800000;

static struct sched_entity *__pick_first_entity(struct cfs_rq *cfs_rq)
{
	struct rb_node *node = cfs_rq->tasks_timeline.rb_root.rb_node;

	while (node && node->rb_left)
		node = node->rb_left;
	return node ? __node_2_se(node) : NULL;
}

static struct sched_entity *__pick_root_entity(struct cfs_rq *cfs_rq)
{
	struct rb_node *root = cfs_rq->tasks_timeline.rb_root.rb_node;

	return root ? __node_2_se(root) : NULL;
}
