"""What aiokafka does of its own accord, and does no more."""

import asyncio
import gc

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import InvalidTimestampError

from sinks.kafka.steady import quiet


async def test_an_error_for_somebody_who_has_given_up_is_not_logged() -> None:
    """asyncio would log it as an exception that was never retrieved."""
    logged: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: logged.append(context))
    producer = AIOKafkaProducer(bootstrap_servers="127.0.0.1:1", enable_idempotence=True)
    producer._closed = True  # it never begins
    quiet(producer)
    batches, place = producer._message_accumulator, TopicPartition("topic", 0)
    batch = producer.create_batch()
    batch.append(key=b"key", value=b"value", timestamp=1)
    waiting = await batches.add_batch(batch, place, 1)
    waiting.cancel()
    await asyncio.sleep(0)
    sent = batches._batches.pop(place)[0]
    sent.drain_ready()
    sent.failure(InvalidTimestampError())
    await asyncio.sleep(0)
    del sent, waiting
    gc.collect()
    assert logged == []
